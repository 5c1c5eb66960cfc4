//! The addresses that names last had: a restart while the DNS is down loses no backend.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::side_file::{Kept, SideFile};
use crate::config::model::Lookup;

/// A name that has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    #[serde(flatten)]
    pub lookup: Lookup,
    pub address: IpAddr,
}

/// The file.
pub type NamesFile = SideFile<Placed>;

impl Kept for Placed {
    const FILE: &'static str = "names.json";
    const VERSION: u32 = 1;
}
