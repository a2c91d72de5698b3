//! See `longshore_tests::fuzz::template`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longshore_tests::fuzz::template(input));
