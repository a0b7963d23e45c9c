//! A body in chunks that an origin sends.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidegate::origin::agreement::on_chunks(bytes));
