//! What a client sends: the fast lane, the strict reader and the parser agree on it.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate::listen::h1::agreement::check_requests(bytes));
