//! See `longshore_tests::fuzz::duration_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longshore_tests::fuzz::duration_text(input));
