//! See `longshore_tests::fuzz::asl`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longshore_tests::fuzz::asl(input));
