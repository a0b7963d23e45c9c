//! Clients that come and go by the thousand: the gauge is the number of sockets, and memory does not grow.

use crate::live::*;
use rand::{rngs::StdRng, Rng, SeedableRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const REQUEST: &str = "GET /kpi HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n";
/// The most sockets that are open at a time, and the number that is open when they are counted.
const MOST: usize = 100;
const COUNTED: u32 = 50;
/// Places that are not given back would run out.
const RULES: &str =
    "cache = { namespace = \"kpi\", ttl = \"60s\" }\nlive = { max_watchers_per_address = 1000 }";

/// The clients: their sockets, in no order.
struct Crowd {
    gateway: Gateway,
    sockets: Vec<TcpStream>,
    dice: StdRng,
}

impl Crowd {
    /// A client comes. One in three doesn't even wait for the head.
    async fn come(&mut self) {
        let mut socket = TcpStream::connect(self.gateway.address()).await.unwrap();
        socket.write_all(REQUEST.as_bytes()).await.unwrap();
        if self.dice.random_ratio(2, 3) {
            let mut head = [0; 1024];
            let read = socket.read(&mut head).await.unwrap();
            assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head[..read]));
        }
        self.sockets.push(socket);
    }

    /// One of them leaves, half of them by a reset.
    fn leave(&mut self) {
        let any = self.dice.random_range(0..self.sockets.len());
        let socket = self.sockets.swap_remove(any);
        if self.dice.random() {
            socket2::SockRef::from(&socket).set_linger(Some(std::time::Duration::ZERO)).unwrap();
        }
    }

    /// So many clients come, and others leave meanwhile; then all who are there are counted.
    async fn churn(&mut self, visits: usize) {
        let mut left = visits;
        while left > 0 || self.sockets.len() != COUNTED as usize {
            let there = self.sockets.len();
            let comes = match left {
                0 => there < COUNTED as usize,
                _ => !self.dice.random_ratio(there as u32, MOST as u32),
            };
            if comes {
                self.come().await;
                left = left.saturating_sub(1);
            } else {
                self.leave();
            }
        }
        until_watched_by(&self.gateway, "kpi", COUNTED).await;
    }
}

async fn come_and_go(visits: usize) {
    let (origin, orders) = shop("/kpi").await;
    let gateway = Gateway::with(&origin).route("/kpi", RULES).event("order_created", &["kpi"]).start().await;
    let mut crowd = Crowd { gateway, sockets: Vec::new(), dice: StdRng::seed_from_u64(seed()) };
    let mut memory = Vec::new();
    for tenth in 1..=10 {
        crowd.churn(visits / 10).await;
        orders.store(tenth, Ordering::SeqCst);
        crowd.gateway.bump("public").await;
        memory.push(crowd.gateway.memory().0 / 1024);
    }
    println!("{visits} visits, KiB after each tenth: {memory:?}");
    assert!(memory[9] <= memory[0] + memory[0] / 20, "KiB after each tenth: {memory:?}");
    crowd.sockets.clear();
    until_watched_by(&crowd.gateway, "kpi", 0).await;
    // All is as it was: the next client gets what is current.
    let mut stream = EventStream::open(crowd.gateway.address(), "/kpi", &[]).await;
    reaches(&mut stream, &json!({ "orders": 10 })).await;
    crowd.gateway.assert_sound().await;
}

#[tokio::test]
async fn clients_that_come_and_go_leave_nothing_behind() {
    come_and_go(5_000).await;
}

#[tokio::test]
#[ignore = "a minute or two: cargo nextest run --test it --run-ignored only -E 'test(live::churn)'"]
async fn load_a_hundred_thousand_clients_that_come_and_go_leave_nothing_behind() {
    come_and_go(100_000).await;
}
