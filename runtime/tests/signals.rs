//! A real signal to a real process: this one. The only test of its binary, so that no other is hit.

use std::process::Command;
use std::time::Duration;

use runtime::shutdown::{Drained, Shutdown};

const LONG: Duration = Duration::from_secs(60);

fn send(signal: &str) {
    let status = Command::new("kill")
        .args([signal, &std::process::id().to_string()])
        .status()
        .expect("this machine has `kill`");
    assert!(status.success());
}

#[tokio::test]
async fn the_first_signal_asks_for_the_stop_and_the_second_ends_the_waiting() {
    let shutdown = Shutdown::new();
    shutdown.listen_to_signals().unwrap();
    shutdown.spawn("stubborn", std::future::pending::<()>());
    let token = shutdown.token();
    assert!(!token.is_cancelled());

    send("-TERM");
    tokio::time::timeout(LONG, token.cancelled()).await.expect("SIGTERM asks for the stop");

    send("-INT");
    let drained = shutdown.drain(LONG).await;
    assert_eq!(drained, Drained::Aborted { running: vec!["stubborn".to_owned()] });
}
