//! See `lb_common::fuzzing::path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lb_common::fuzzing::path(input));
