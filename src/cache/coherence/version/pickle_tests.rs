//! Tests of the numbers in pickles, against Python's own `pickle`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "test code: a failure is a panic")]

use super::*;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use std::{
    io::Write,
    process::{Command, Stdio},
};

/// Prints what `pickle` makes of an expression, by its C and its Python implementation, in each protocol.
const DUMP: &str = r"
import pickle, pickletools, sys
for line in sys.stdin:
    value = eval(line)
    for protocol in range(6):
        for data in {pickle.dumps(value, protocol), pickle._dumps(value, protocol),
                     pickletools.optimize(pickle.dumps(value, protocol))}:
            print(line.strip(), data.hex())
";

/// Prints the number that Python unpickles: a version as an application reads it.
const LOAD: &str = r"
import pickle, sys
for line in sys.stdin:
    value = pickle.loads(bytes.fromhex(line))
    assert type(value) in (int, str), value
    print(line.strip(), int(value))
";

/// Runs a script with these lines as its input; gives back the two words of each line that it prints.
fn python(script: &str, lines: &[String]) -> Vec<(String, String)> {
    let mut command = Command::new("python3");
    command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut input, text) = (child.stdin.take().unwrap(), lines.join("\n"));
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "python failed");
    let text = String::from_utf8(output.stdout).unwrap();
    let words =
        |line: &str| line.rsplit_once(' ').map(|(one, two)| (one.to_owned(), two.to_owned())).unwrap();
    text.lines().map(words).collect()
}

fn pickles(expressions: &[String]) -> Vec<(String, Vec<u8>)> {
    let dumped = python(DUMP, expressions);
    dumped.into_iter().map(|(expression, hex)| (expression, bytes(&hex))).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Numbers of every length, and those at the ends of each opcode's range.
fn numbers() -> Vec<u64> {
    let mut numbers: Vec<u64> = vec![0, 1, u64::MAX];
    for bits in [7, 8, 15, 16, 31, 32, 48, 55, 56, 63] {
        let power = 1_u64 << bits;
        numbers.extend([power - 1, power, power + 1]);
    }
    let mut runner = TestRunner::deterministic();
    let any = (any::<u64>(), 0_u32..64).prop_map(|(number, shift)| number >> shift);
    numbers.extend((0..100).map(|_| any.new_tree(&mut runner).unwrap().current()));
    numbers
}

#[test]
fn the_number_of_a_pickle_is_read_in_every_protocol() {
    let numbers = numbers();
    let written =
        |number: &u64| [number.to_string(), format!("str({number})"), format!("'00{}'", number >> 16)];
    let expressions: Vec<String> = numbers.iter().flat_map(written).collect();
    let pickles = pickles(&expressions);
    assert!(pickles.len() > 6 * expressions.len(), "{}", pickles.len());
    for (expression, pickle) in pickles {
        let wanted = expression.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok();
        assert!(wanted.is_some());
        assert_eq!(parse_pickle(&pickle), wanted, "{expression}: {pickle:?}");
        // As cachelib writes it to Redis.
        assert_eq!(parse_pickle(&[b"!", &pickle[..]].concat()), wanted, "{expression}");
        for end in 0..pickle.len() {
            assert_eq!(parse_pickle(&pickle[..end]), None, "{expression}, cut at {end}");
        }
        assert_eq!(parse_pickle(&[&pickle[..], b"."].concat()), None, "{expression}, with more behind it");
    }
}

#[test]
fn what_is_no_number_is_none() {
    let others = [
        "True",
        "False",
        "None",
        "-1",
        "-(1 << 40)",
        "1 << 64",
        "1 << 2000",
        "1.0",
        "b'7'",
        "'-7'",
        "'+7'",
        "''",
        "'7 '",
        "'7\\n'",
        "'1_000'",
        "'seven'",
        "'\\u0667'",
        "'9' * 21",
        "(7,)",
        "[7]",
        "{7: 7}",
        "'18446744073709551616'",
    ];
    for (expression, pickle) in pickles(&others.map(str::to_owned)) {
        assert_eq!(parse_pickle(&pickle), None, "{expression}: {pickle:?}");
    }
    for bytes in [
        &b""[..],
        b"!",
        b"!!K\x07.",
        b"7",
        b"K",
        b"K\x07",
        b"I7L\n.",
        b"\x80\x06K\x07.",
        b"\x80\x02\x80\x02K\x07.",
    ] {
        assert_eq!(parse_pickle(bytes), None, "{bytes:?}");
    }
}

/// Of bytes that are nearly a pickle, a number is read only where Python reads the same.
#[test]
fn what_is_read_is_what_python_reads() {
    let pickles = pickles(&[
        "7".to_owned(),
        "70000".to_owned(),
        "1764540000000".to_owned(),
        "'1764540000001'".to_owned(),
    ]);
    let mut read = Vec::new();
    for (_, pickle) in pickles {
        for at in 0..pickle.len() {
            for byte in 0..=255 {
                let mut other = pickle.clone();
                other[at] = byte;
                read.extend(parse_pickle(&other).map(|number| (hex(&other), number.to_string())));
            }
        }
    }
    assert!(read.len() > 1_000);
    let lines: Vec<String> = read.iter().map(|(hex, _)| hex.clone()).collect();
    assert_eq!(python(LOAD, &lines), read);
}

proptest! {
    #[test]
    fn hostile_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        // Found by chance, it would have to be a pickle of a number all the same: a stop at its end, an
        // opcode before it.
        if parse_pickle(&bytes).is_some() {
            prop_assert_eq!(bytes.last(), Some(&STOP));
        }
    }
}
