//! A door in front of a server: while it is closed nobody gets through, and closing it ends what goes on.
//!
//! Tests use it to let the listener of confirmations be back before the worker is, when Redis was away.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A forwarder on 127.0.0.1.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    open: AtomicBool,
    stopped: AtomicBool,
    connections: Mutex<Vec<TcpStream>>,
}

impl Gate {
    /// An open gate in front of a port on 127.0.0.1.
    ///
    /// # Panics
    /// When no port is free.
    #[must_use]
    pub fn open_to(port: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind a free port on 127.0.0.1");
        let own_port = listener.local_addr().expect("a bound socket has an address").port();
        let shared = Arc::new(Shared {
            target: (Ipv4Addr::LOCALHOST, port).into(),
            open: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::spawn(move || accept(&listener, &for_thread));
        Self { port: own_port, shared, thread: Some(thread) }
    }

    /// Where clients find the server behind the gate, if that is a Redis.
    #[must_use]
    pub fn redis_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends every connection and lets no new one through.
    pub fn close(&self) {
        self.shared.open.store(false, Ordering::Release);
        self.shared.end_connections();
    }

    /// Lets nobody new through; what goes on goes on.
    pub fn close_to_new(&self) {
        self.shared.open.store(false, Ordering::Release);
    }

    /// Lets new connections through.
    pub fn open(&self) {
        self.shared.open.store(true, Ordering::Release);
    }
}

impl Shared {
    fn end_connections(&self) {
        for connection in self.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may have ended already.
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.shared.end_connections();
        // The accepting thread looks at the flag after the next connection, which is this one.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.stopped.load(Ordering::Acquire) {
            return;
        }
        let Ok(client) = client else { continue };
        if !shared.open.load(Ordering::Acquire) {
            continue;
        }
        let Ok(server) = TcpStream::connect_timeout(&shared.target, Duration::from_secs(1)) else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let pairs = (client.try_clone(), server.try_clone(), client.try_clone(), server.try_clone());
        let (Ok(client_out), Ok(server_out), Ok(client_held), Ok(server_held)) = pairs else { continue };
        shared.connections.lock().unwrap_or_else(PoisonError::into_inner).extend([client_held, server_held]);
        std::thread::spawn(move || forward(client, server_out));
        std::thread::spawn(move || forward(server, client_out));
    }
}

/// Hands on everything, and then that there is no more.
fn forward(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
