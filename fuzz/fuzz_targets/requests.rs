//! Bytes of a client: the prepared lane, the strict reader and the parser agree on them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate::listen::h1::agreement::check_requests(bytes));
