//! See `longshore_tests::fuzz::wfformat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| longshore_tests::fuzz::wfformat(input));
