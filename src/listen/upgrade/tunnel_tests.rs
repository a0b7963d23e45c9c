use super::*;
use proptest::prelude::*;
use std::future::poll_fn;
use tokio::{
    io::{duplex, AsyncReadExt, AsyncWriteExt, DuplexStream},
    sync::watch,
    task::JoinHandle,
};

/// A running tunnel, its two far ends, and the sender of the shutdown.
struct Running {
    client: DuplexStream,
    origin: DuplexStream,
    leave: watch::Sender<bool>,
    tunnel: JoinHandle<io::Result<()>>,
}

/// A tunnel over connections with buffers of `room` bytes in each direction.
fn running(room: usize, first: &[u8]) -> Running {
    let (client, mut near_client) = duplex(room);
    let (origin, near_origin) = duplex(room);
    let (leave, mut leaving) = watch::channel(false);
    let going: GoingAwaySignal = Box::pin(async move { drop(leaving.wait_for(|leaves| *leaves).await) });
    let mut tunnel = Tunnel::new(near_origin, first.to_vec(), Duration::from_secs(60), going);
    let tunnel = tokio::spawn(async move {
        let ended = poll_fn(|cx| tunnel.poll(cx, &mut near_client)).await;
        // As Pingora does with the client's connection.
        near_client.shutdown().await?;
        ended
    });
    Running { client, origin, leave, tunnel }
}

async fn all(stream: &mut DuplexStream) -> Vec<u8> {
    let mut out = Vec::new();
    stream.read_to_end(&mut out).await.unwrap();
    out
}

async fn exactly<const N: usize>(stream: &mut DuplexStream) -> [u8; N] {
    let mut out = [0; N];
    stream.read_exact(&mut out).await.unwrap();
    out
}

/// The client's answer to the close frame: a masked close frame.
const ANSWER: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

#[tokio::test]
async fn bytes_pass_as_they_are_and_ends_are_passed_on() {
    let mut it = running(64, b"first");
    it.client.write_all(b"up").await.unwrap();
    it.origin.write_all(b"down").await.unwrap();
    assert_eq!(&exactly::<9>(&mut it.client).await, b"firstdown");
    assert_eq!(&exactly::<2>(&mut it.origin).await, b"up");
    // The client stops sending; the origin still has bytes to send.
    it.client.shutdown().await.unwrap();
    assert_eq!(all(&mut it.origin).await, b"");
    it.origin.write_all(b"last").await.unwrap();
    it.origin.shutdown().await.unwrap();
    assert_eq!(all(&mut it.client).await, b"last");
    it.tunnel.await.unwrap().unwrap();
}

/// Each end writes a lot before it reads anything.
#[tokio::test]
async fn no_direction_waits_for_the_other() {
    let it = running(1000, b"");
    let (mut from_client, mut to_client) = tokio::io::split(it.client);
    let (mut from_origin, mut to_origin) = tokio::io::split(it.origin);
    let upload = tokio::spawn(async move { to_client.write_all(&[1; 100_000]).await });
    // The client reads nothing at first, so that this direction is full.
    let download = tokio::spawn(async move { to_origin.write_all(&[2; 100_000]).await });
    let mut got = vec![0; 100_000];
    from_origin.read_exact(&mut got).await.unwrap();
    upload.await.unwrap().unwrap();
    assert!(!download.is_finished());
    from_client.read_exact(&mut got).await.unwrap();
    download.await.unwrap().unwrap();
    assert!(got.iter().all(|byte| *byte == 2));
}

#[tokio::test]
async fn the_farewell_waits_for_the_end_of_a_frame() {
    let mut it = running(64, &[0x82, 4, b'a']);
    assert_eq!(exactly::<3>(&mut it.client).await, [0x82, 4, b'a']);
    it.leave.send_replace(true);
    // The rest of the frame, and a frame that comes too late.
    it.origin.write_all(b"b").await.unwrap();
    assert_eq!(&exactly::<1>(&mut it.client).await, b"b");
    it.origin.write_all(b"cd\x81\x01x").await.unwrap();
    assert_eq!(&exactly::<2>(&mut it.client).await, b"cd");
    assert_eq!(exactly::<4>(&mut it.client).await, GOING_AWAY_FRAME);
    // Until the client has answered, its bytes are forwarded.
    it.client.write_all(&[0x81, 0x80, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(exactly::<6>(&mut it.origin).await, [0x81, 0x80, 0, 0, 0, 0]);
    it.origin.write_all(b"\x81\x01y").await.unwrap();
    it.client.write_all(&ANSWER).await.unwrap();
    it.tunnel.await.unwrap().unwrap();
    assert_eq!(all(&mut it.client).await, b"");
    assert_eq!(all(&mut it.origin).await, ANSWER);
}

#[tokio::test]
async fn an_idle_socket_is_told_at_once() {
    let mut it = running(64, b"");
    it.leave.send_replace(true);
    assert_eq!(exactly::<4>(&mut it.client).await, GOING_AWAY_FRAME);
    // A client may also just disconnect.
    it.client.shutdown().await.unwrap();
    it.tunnel.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_closing_handshake_is_left_alone() {
    for closing in [&b"\x88\x02\x03\xe8"[..], b"\x81\x00\x88\x00"] {
        let mut it = running(64, closing);
        it.leave.send_replace(true);
        let mut got = vec![0; closing.len()];
        it.client.read_exact(&mut got).await.unwrap();
        it.client.write_all(&ANSWER).await.unwrap();
        assert_eq!(exactly::<8>(&mut it.origin).await, ANSWER);
        drop(it.origin);
        assert_eq!(all(&mut it.client).await, b"");
        drop(it.client);
        it.tunnel.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_it_and_a_byte_in_either_direction_is_no_silence() {
    let mut it = running(64, b"");
    for turn in 0..6 {
        tokio::time::sleep(Duration::from_secs(50)).await;
        let end = if turn % 2 == 0 { &mut it.client } else { &mut it.origin };
        end.write_all(b"x").await.unwrap();
    }
    let last = Instant::now();
    it.tunnel.await.unwrap().unwrap();
    assert_eq!(last.elapsed().as_secs(), 60);
    assert_eq!(all(&mut it.origin).await, b"xxx");
}

#[tokio::test(start_paused = true)]
async fn half_a_tunnel_does_not_stay_for_long() {
    let mut it = running(64, b"");
    it.origin.shutdown().await.unwrap();
    let begin = Instant::now();
    it.tunnel.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), HALF_CLOSE_TIMEOUT);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// At whatever time the shutdown comes, the client gets whole frames, then the close frame, then nothing.
    #[test]
    fn the_farewell_never_stands_inside_a_frame(
        sizes in proptest::collection::vec(0..300_usize, 1..6),
        pieces in proptest::collection::vec(1..200_usize, 1..20),
        leave_after in 0..20_usize,
    ) {
        let frame = |size: &usize| match u8::try_from(*size).ok().filter(|n| *n < 126) {
            Some(short) => [vec![0x82, short], vec![0x88; *size]].concat(),
            None => [vec![0x82, 126], u16::try_from(*size).unwrap().to_be_bytes().to_vec(), vec![0x88; *size]].concat(),
        };
        let frames: Vec<Vec<u8>> = sizes.iter().map(frame).collect();
        let bytes = frames.concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let got = runtime.block_on(async move {
            let mut it = running(1 << 20, b"");
            let (mut at, mut turn) = (0, 0);
            while at < bytes.len() {
                if turn == leave_after {
                    it.leave.send_replace(true);
                }
                let end = (at + pieces[turn % pieces.len()]).min(bytes.len());
                it.origin.write_all(&bytes[at..end]).await.unwrap();
                tokio::task::yield_now().await;
                (at, turn) = (end, turn + 1);
            }
            it.leave.send_replace(true);
            it.client.shutdown().await.unwrap();
            it.tunnel.await.unwrap().unwrap();
            all(&mut it.client).await
        });
        let whole = (0..=frames.len()).map(|n| [frames[..n].concat(), GOING_AWAY_FRAME.to_vec()].concat());
        prop_assert!(whole.into_iter().any(|expected| expected == got), "{:?}", got);
    }
}
