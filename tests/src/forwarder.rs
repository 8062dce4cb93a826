//! A TCP forwarder between agent and controller: a network that a test can cut.
//!
//! It passes bytes on and knows nothing of them: TLS goes from end to end.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// The network to one address. Dropped, it is cut for good.
#[derive(Debug)]
pub struct Forwarder {
    port: u16,
    network: Arc<Network>,
}

#[derive(Debug, Default)]
struct Network {
    is_dark: AtomicBool,
    is_over: AtomicBool,
    /// Both ends of every connection that was made and not yet cut.
    ends: Mutex<Vec<TcpStream>>,
}

impl Forwarder {
    /// Takes connections on a free port and passes them on to `port` of this machine.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let network = Arc::<Network>::default();
        let own = listener.local_addr().expect("bound").port();
        let passed_on = Arc::clone(&network);
        std::thread::spawn(move || passed_on.serve(&listener, SocketAddr::from(([127, 0, 0, 1], port))));
        Self { port: own, network }
    }

    /// Where to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Breaks every connection; new ones are passed on.
    pub fn cut(&self) {
        for end in self.network.ends.lock().expect("nobody panics with it").drain(..) {
            // It may have ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Breaks every connection, and new ones at once, until [`Forwarder::light`].
    pub fn dark(&self) {
        self.network.is_dark.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// The network is there again.
    pub fn light(&self) {
        self.network.is_dark.store(false, Ordering::SeqCst);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.network.is_over.store(true, Ordering::SeqCst);
        self.dark();
        // Wakes the thread that takes connections.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Network {
    fn serve(&self, listener: &TcpListener, to: SocketAddr) {
        for from in listener.incoming().filter_map(Result::ok) {
            if self.is_over.load(Ordering::SeqCst) {
                return;
            }
            if self.is_dark.load(Ordering::SeqCst) {
                continue;
            }
            // While the controller is away a connection ends at once.
            let Ok(onward) = TcpStream::connect(to) else { continue };
            let two = |stream: &TcpStream| stream.try_clone().expect("a second handle");
            {
                let mut ends = self.ends.lock().expect("nobody panics with it");
                ends.extend([two(&from), two(&onward)]);
                if self.is_dark.load(Ordering::SeqCst) {
                    ends.drain(..).for_each(|end| drop(end.shutdown(Shutdown::Both)));
                }
            }
            let (back_from, back_to) = (two(&onward), two(&from));
            std::thread::spawn(move || pass_on(from, onward));
            std::thread::spawn(move || pass_on(back_from, back_to));
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // Either end may be gone already.
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
