use super::*;
use std::{net::SocketAddr, path::Path, time::Instant};
use tokio::net::TcpListener;

const LIMITS: ConnectionTimeouts =
    ConnectionTimeouts { connect: Duration::from_secs(5), step: Duration::from_secs(5) };

/// A server that answers each request on its connections with the next of these answers, and closes when
/// there is none.
async fn server(answers: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                for answer in answers {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") {
                        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                            return;
                        }
                    }
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    at
}

async fn ask(connection: &mut OriginConnection) -> Result<(u16, String), Box<Error>> {
    connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", LIMITS).await?;
    let head = connection.head(&Method::GET, LIMITS).await?;
    let mut body = Vec::new();
    while let Some(piece) = connection.next(LIMITS).await? {
        body.extend_from_slice(&piece);
    }
    Ok((head.status.as_u16(), String::from_utf8(body).unwrap()))
}

async fn connected(answers: &'static [&'static str]) -> (SocketAddr, Box<OriginConnection>) {
    let at = server(answers).await;
    (at, OriginConnection::open(SocketTarget::Tcp(&[at], None), LIMITS, |_| ()).await.unwrap().0)
}

#[tokio::test]
async fn a_connection_serves_one_after_another() {
    let (at, mut connection) = connected(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nto the end",
    ])
    .await;
    let (idle, later) = (IdleConnections::default(), Instant::now() + Duration::from_secs(60));
    for expected in [(200, "hello"), (200, "hello!"), (204, "")] {
        let (status, body) = ask(&mut connection).await.unwrap();
        assert_eq!((status, &body[..]), expected);
        idle.keep((Some(at), 0), connection, later);
        assert!(idle.take((None, 0), Instant::now()).is_none(), "that is another server");
        connection = idle.take((Some(at), 0), Instant::now()).unwrap();
    }
    assert_eq!(ask(&mut connection).await.unwrap(), (200, "to the end".to_owned()));
    idle.keep((Some(at), 0), connection, later);
    assert!(idle.is_empty());
}

#[tokio::test]
async fn who_says_more_than_it_was_asked_for_is_not_asked_again() {
    for more in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more",
        "HTTP/1.1 204 X\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let answers: &'static [&'static str] = Box::leak(Box::new([more]));
        let (_, mut connection) = connected(answers).await;
        assert!(ask(&mut connection).await.is_ok());
        assert!(!connection.may_be_kept(), "{more}");
    }
}

#[tokio::test]
async fn what_breaks_off_is_an_error() {
    for short in [
        "",
        "HTTP/1.1 200 OK\r\nContent-Le",
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        let answers: &'static [&'static str] = Box::leak(Box::new([short]));
        let (_, mut connection) = connected(answers).await;
        let error = ask(&mut connection).await.unwrap_err();
        assert_eq!(*error.etype(), ErrorType::ConnectionClosed, "{short:?}");
        assert!(!connection.may_be_kept());
    }
}

#[tokio::test]
async fn interim_answers_come_one_by_one() {
    let (_, mut connection) = connected(&[
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ])
    .await;
    connection.send(b"GET / HTTP/1.1\r\n\r\n", LIMITS).await.unwrap();
    for status in [103, 100, 200] {
        assert!(!connection.is_done());
        assert_eq!(connection.head(&Method::GET, LIMITS).await.unwrap().status.as_u16(), status);
    }
    assert!(connection.may_be_kept());
}

#[tokio::test]
async fn one_that_the_server_has_closed_is_not_taken_again() {
    let (at, mut connection) = connected(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"]).await;
    ask(&mut connection).await.unwrap();
    let idle = IdleConnections::default();
    idle.keep((Some(at), 0), connection, Instant::now() + Duration::from_secs(60));
    while !idle.is_empty() {
        idle.sweep(Instant::now());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn old_ones_and_surplus_ones_are_closed() {
    let answers: &'static [&'static str] = Box::leak(vec!["HTTP/1.1 204 X\r\n\r\n"; 9].into());
    let (at, mut connection) = connected(answers).await;
    ask(&mut connection).await.unwrap();
    let (idle, now) = (IdleConnections::default(), Instant::now());
    idle.keep((Some(at), 0), connection, now + Duration::from_secs(1));
    idle.sweep(now);
    assert!(!idle.is_empty());
    assert!(idle.take((Some(at), 0), now + Duration::from_secs(1)).is_none());
    assert!(idle.is_empty());
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = [listener.local_addr().unwrap()];
    let to = SocketTarget::Tcp(&to, None);
    let limits = ConnectionTimeouts { step: Duration::from_millis(20), ..LIMITS };
    let mut connection = OriginConnection::open(to, limits, |_| ()).await.unwrap().0;
    connection.send(b"GET / HTTP/1.1\r\n\r\n", limits).await.unwrap();
    let error = connection.head(&Method::GET, limits).await.unwrap_err();
    assert_eq!(*error.etype(), ErrorType::ReadTimedout);
}

#[tokio::test]
async fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    drop(listener);
    let error = OriginConnection::open(SocketTarget::Tcp(&[at], None), LIMITS, |_| ()).await.unwrap_err();
    assert_eq!(*error.etype(), ErrorType::ConnectRefused);
    assert!(OriginConnection::open(SocketTarget::Unix(Path::new("/nowhere/at/all")), LIMITS, |_| ())
        .await
        .is_err());
}

/// Otherwise megabytes of a fast server's answer to a slow client would be in the kernel.
#[tokio::test]
async fn the_kernel_keeps_no_more_than_it_was_told() {
    const BUFFER: u32 = 16 * 1024;
    let at = server(&[]).await;
    let connection =
        OriginConnection::open(SocketTarget::Tcp(&[at], Some(BUFFER)), LIMITS, |_| ()).await.unwrap().0;
    let OriginSocket::Tcp(stream) = &connection.socket else { panic!("no TCP") };
    // The kernel adds its own overhead.
    assert_eq!(socket2::SockRef::from(stream).recv_buffer_size().unwrap(), 2 * BUFFER as usize);
}
