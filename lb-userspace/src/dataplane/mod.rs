//! The dataplane from the daemon's side: loads the program, sizes and fills its maps, attaches.
//!
//! Applying is idempotent and ordered: backend before table, table before service; removal in
//! reverse, with a grace period before anything is reused.

pub mod attach;
mod bpf;
pub mod decap;
pub mod entries;
pub mod features;
pub mod frontends;
pub mod grace;
pub mod keys;
mod link;
pub mod lists;
pub mod load;
pub mod mapped;
pub mod maps;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod object;
mod private_fs;
pub mod probe_path;
pub mod regions;
pub mod services;
#[cfg(test)]
mod testbed;
pub mod view;
