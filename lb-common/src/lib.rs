//! What the packet program, the daemon and the tests share: one description of the maps, one
//! hash, one Maglev table, and the whole packet path, which runs in the kernel and on a laptop.
//!
//! `no_std`, no allocation outside the `user` and `fuzzing` features, no panic path. Start at [`path::run`].
#![cfg_attr(not(any(feature = "user", feature = "fuzzing", test)), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![warn(missing_docs)]

pub mod abi;
pub mod checksum;
pub mod decap;
pub mod encap;
pub mod filter;
pub mod find_service;
pub mod frame;
#[cfg(any(feature = "fuzzing", test))]
pub mod fuzzing;
pub mod hash;
#[cfg(any(feature = "fuzzing", test))]
#[cfg_attr(not(test), allow(dead_code, reason = "tests use all of it, the harness less"))]
mod host;
pub mod icmp;
pub mod ip;
pub mod limit;
#[cfg(any(feature = "user", feature = "fuzzing", test))]
pub mod maglev;
pub mod maps;
pub mod mss;
pub mod nat;
pub mod packet;
pub mod path;
pub mod pick;
pub mod probe;
pub mod quic;
pub mod reset;
pub mod rewrite;
pub mod rules;
#[cfg(test)]
mod samples;
pub mod straight;
pub mod verdict;
pub mod vlan;
