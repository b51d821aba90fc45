//! Ports on loopback for programs that a test starts.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// The TLS port of a server is its port minus this number.
pub(crate) const TLS_BELOW: u16 = 8_000;

/// Returns a port that no process listens on, and that no other call in this process returns for a
/// long time.
///
/// It is below the ports that the system assigns for port 0 and to outgoing connections (32768 and
/// more on Linux), so it stays free until the program listens. The port 10,000 above it is free
/// too, because a node of a Cluster also listens there, and so is its TLS port.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time start at different numbers.
    let start = (std::process::id() % 80) as u16 * 100;
    loop {
        let port = 12_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 8_000;
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if is_free(port) && is_free(port + 10_000) && is_free(port - TLS_BELOW) {
            return port;
        }
    }
}
