//! A server that speaks as much of Kubernetes' API as a test tells it to.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

/// What the server says to a method, a path and a body; nothing for what nobody has a right to ask.
type Says = dyn Fn(&str, &str, &Value) -> Option<Value> + Send + Sync;

/// Ends with the test's process.
pub struct ApiServer {
    address: String,
}

impl ApiServer {
    /// Answers 200 with what `says` gives, else 403.
    pub fn start(says: impl Fn(&str, &str, &Value) -> Option<Value> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let says: Arc<Says> = Arc::new(says);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let says = says.clone();
                std::thread::spawn(move || while answer(&stream, &*says).is_some() {});
            }
        });
        Self { address }
    }

    /// Writes what kubectl keeps for its user.
    pub fn kubeconfig(&self, file: &Path) {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
            "clusters": [{ "name": "c", "cluster": { "server": self.address } }],
            "users": [{ "name": "u", "user": {} }],
        });
        fs::write(file, text.to_string()).expect("written");
    }
}

fn answer(stream: &TcpStream, says: &Says) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().to_ascii_lowercase().split_once(": ") {
            Some(("content-length", value)) => length = value.parse().ok()?,
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let (status, said) = match says(method, path, &body) {
        Some(said) => ("200 OK", said),
        None => (
            "403 Forbidden",
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": "Forbidden", "message": format!("no right to {method} {path}"), "code": 403 }),
        ),
    };
    let said = said.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        said.len()
    );
    (&*stream).write_all((head + &said).as_bytes()).ok()
}
