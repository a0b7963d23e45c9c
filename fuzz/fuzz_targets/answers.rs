//! Bytes of an origin, in answer to GET and to HEAD.
#![no_main]

use http::Method;
use tidegate::origin::agreement::on_answers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    on_answers(bytes, &Method::GET);
    on_answers(bytes, &Method::HEAD);
});
