//! What the packet program, the daemon and the tests share: one description of the maps, one
//! hash, one Maglev table, and the whole packet path, which runs in the kernel and on a laptop.
//!
//! `no_std`, no allocation outside the `user` feature, no panic path. Start at [`path::run`].
#![cfg_attr(not(any(feature = "user", test)), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![warn(missing_docs)]

pub mod abi;
pub mod checksum;
pub mod decap;
pub mod encap;
pub mod filter;
pub mod find_service;
pub mod frame;
pub mod hash;
#[cfg(test)]
mod host;
pub mod icmp;
pub mod ip;
pub mod limit;
#[cfg(any(feature = "user", test))]
pub mod maglev;
pub mod maps;
pub mod mss;
pub mod nat;
pub mod packet;
pub mod path;
pub mod pick;
pub mod quic;
pub mod rewrite;
pub mod rules;
#[cfg(test)]
mod samples;
pub mod verdict;
pub mod vlan;
