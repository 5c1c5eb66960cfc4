//! See `lb_common::fuzzing::parse`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_common::fuzzing::parse(input));
