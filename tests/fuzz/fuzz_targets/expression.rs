//! See `longshore_tests::fuzz::expression`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longshore_tests::fuzz::expression(input));
