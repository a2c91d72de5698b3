//! See `longshore_tests::fuzz::payload`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longshore_tests::fuzz::payload(input));
