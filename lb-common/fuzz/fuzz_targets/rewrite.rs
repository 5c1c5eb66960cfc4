//! See `lb_common::fuzzing::rewrite`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_common::fuzzing::rewrite(input));
