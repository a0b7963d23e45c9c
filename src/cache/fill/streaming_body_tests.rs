use super::*;
use proptest::prelude::*;
use std::time::Duration;

/// The state after a piece was written.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    Kept,
    Passing,
    Unwanted,
}

impl StreamWriter {
    /// Writes a piece like a fill whose readers know that it comes.
    async fn push(&self, piece: Bytes) -> Written {
        match self.append(piece) {
            false => Written::Kept,
            true if self.in_step().await => Written::Passing,
            true => Written::Unwanted,
        }
    }
}

fn begin(keep: u64) -> (StreamWriter, StreamReader) {
    let live = StreamingBody::begin(&StreamBudget::new(1 << 40));
    let writer = live.writer();
    writer.keep(keep);
    let reader = live.reader().unwrap();
    (writer, reader)
}

async fn rest(mut reader: StreamReader) -> Result<Vec<u8>, BodyBroken> {
    let mut whole = Vec::new();
    while let Some(piece) = reader.next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole)
}

fn piece(length: usize, fill: u8) -> Bytes {
    Bytes::from(vec![fill; length])
}

#[tokio::test]
async fn whoever_comes_while_it_arrives_gets_all_of_it() {
    let (writer, first) = begin(1 << 20);
    let live = writer.live.clone();
    let first = tokio::spawn(rest(first));
    assert_eq!(writer.push(piece(10, 1)).await, Written::Kept);
    let second = tokio::spawn(rest(live.reader().unwrap()));
    assert_eq!(writer.push(piece(20_000, 2)).await, Written::Kept);
    assert_eq!(writer.push(piece(5, 3)).await, Written::Kept);
    let body = writer.finish().expect("it was kept");
    let third = live.reader().unwrap();
    let whole = body.to_bytes().to_vec();
    assert_eq!(whole.len(), 20_015);
    assert_eq!(first.await.unwrap().unwrap(), whole);
    assert_eq!(second.await.unwrap().unwrap(), whole);
    assert_eq!(rest(third).await.unwrap(), whole);
}

#[tokio::test]
async fn a_writer_that_goes_away_breaks_it_off() {
    let (writer, first) = begin(1 << 20);
    let live = writer.live.clone();
    writer.push(piece(10, 1)).await;
    drop(writer);
    assert_eq!(rest(first).await, Err(BodyBroken));
    assert!(live.reader().is_none());
}

#[tokio::test]
async fn beyond_the_limit_it_passes_through_and_is_joined_while_its_beginning_is_here() {
    let (writer, first) = begin(100);
    let live = writer.live.clone();
    assert_eq!(writer.push(piece(60, 1)).await, Written::Kept);
    let second = live.reader().unwrap();
    assert_eq!(writer.push(piece(60, 2)).await, Written::Passing);
    let third = live.reader().unwrap();
    let readers = [first, second, third].map(|reader| tokio::spawn(rest(reader)));
    for n in 0..17 {
        assert_eq!(writer.push(piece(64 * 1024, n)).await, Written::Passing);
    }
    assert!(live.reader().is_none());
    assert!(writer.finish().is_none());
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap().len(), 120 + 17 * 64 * 1024);
    }
}

#[tokio::test]
async fn all_that_arrives_has_one_budget() {
    let budget = StreamBudget::new(1_000);
    let (one, other) = (StreamingBody::begin(&budget), StreamingBody::begin(&budget));
    let readers = [one.reader().unwrap(), other.reader().unwrap()];
    let writers = [one.writer(), other.writer()];
    assert!(!writers[0].append(piece(900, 0)));
    assert!(writers[1].append(piece(200, 0)), "no room: it passes through");
    for (writer, reader) in writers.into_iter().zip(readers) {
        writer.finish();
        rest(reader).await.unwrap();
    }
    drop((one, other));
    assert_eq!(budget.used.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_slow_reader_is_cut_off_and_holds_nobody_up() {
    let (writer, first) = begin(100);
    let slow = writer.live.reader().unwrap();
    let fast = tokio::spawn(rest(first));
    for n in 0..200 {
        assert_ne!(writer.push(piece(64 * 1024, n)).await, Written::Unwanted);
    }
    assert!(writer.live.state.lock().pieces.len() < 80, "only a window is held");
    writer.finish();
    assert_eq!(fast.await.unwrap().unwrap().len(), 200 * 64 * 1024);
    assert_eq!(rest(slow).await, Err(BodyBroken));
}

#[tokio::test]
async fn the_fastest_reader_sets_the_pace() {
    let (writer, mut first) = begin(0);
    for _ in 0..8 {
        writer.push(piece(64 * 1024, 0)).await;
    }
    let more = tokio::time::timeout(Duration::from_millis(20), writer.push(piece(64 * 1024, 0))).await;
    assert!(more.is_err(), "the writer is too far ahead");
    for _ in 0..2 {
        first.next().await.unwrap();
    }
    assert_eq!(writer.push(piece(1, 0)).await, Written::Passing);
    drop(first);
    assert_eq!(writer.push(piece(1, 0)).await, Written::Unwanted);
}

proptest! {
    #[test]
    fn who_keeps_up_reads_all_of_what_passes_through(
        sizes in proptest::collection::vec(prop_oneof![0_usize..3_000, 0_usize..40_000], 0..40),
        keep in prop_oneof![Just(1_u64), Just(10_000), Just(60_000)],
        lazy in proptest::collection::vec(0_usize..3, 0..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (writer, first) = begin(keep);
            let mut readers = vec![(first, Vec::new())];
            readers.push((writer.live.reader().unwrap(), Vec::new()));
            let mut whole = Vec::new();
            for (n, size) in sizes.iter().enumerate() {
                let bytes: Vec<u8> = (0..*size).map(|i| (i * 7 + n) as u8).collect();
                whole.extend_from_slice(&bytes);
                assert_ne!(writer.push(bytes.into()).await, Written::Unwanted);
                for (which, (reader, read)) in readers.iter_mut().enumerate() {
                    // The second one leaves some for later, but stays within the window.
                    while which == 0 || lazy.get(n).copied() != Some(0) {
                        match reader.take() {
                            Some(Ok(Some(piece))) => read.extend_from_slice(&piece),
                            Some(other) => panic!("{other:?}"),
                            None => break,
                        }
                    }
                }
            }
            writer.finish();
            for (reader, mut read) in readers {
                read.extend(rest(reader).await.unwrap());
                assert!(read == whole);
            }
        });
    }

    #[test]
    fn every_reader_reads_what_was_written(
        sizes in proptest::collection::vec(0_usize..40_000, 0..12),
        joins in proptest::collection::vec(0_usize..12, 0..4),
        reads in proptest::collection::vec(0_usize..3, 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (writer, first) = begin(1 << 30);
            let mut readers = vec![(first, Vec::new())];
            let mut whole = Vec::new();
            for (n, size) in sizes.iter().enumerate() {
                for _ in joins.iter().filter(|at| **at == n) {
                    readers.push((writer.live.reader().unwrap(), Vec::new()));
                }
                let bytes: Vec<u8> = (0..*size).map(|i| (i * 7 + n) as u8).collect();
                whole.extend_from_slice(&bytes);
                writer.push(bytes.into()).await;
                for (reader, read) in &mut readers {
                    for _ in 0..reads.get(n).copied().unwrap_or(0) {
                        match reader.take() {
                            Some(Ok(Some(piece))) => read.extend_from_slice(&piece),
                            _ => break,
                        }
                    }
                }
            }
            assert_eq!(writer.finish().unwrap().to_bytes(), whole);
            for (reader, mut read) in readers {
                read.extend(rest(reader).await.unwrap());
                assert_eq!(read, whole);
            }
        });
    }
}
