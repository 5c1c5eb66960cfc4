//! Namespaces with cables between them and no switch: a lab for what must cost no more than a veth.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Result, bail};

use crate::{
    namespace::Namespace,
    network,
    process::{run, wait_until},
    registry,
};

/// The namespaces and their files; all gone when it is dropped.
#[derive(Debug)]
pub struct Cables {
    id: String,
}

/// One end of a cable.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    pub namespace: &'a Namespace,
    pub interface: &'a str,
    pub mac: [u8; 6],
}

impl Cables {
    pub fn new() -> Result<Self> {
        let id = registry::new_id();
        fs::create_dir_all(registry::directory(&id))?;
        Ok(Self { id })
    }

    /// A new namespace, named as a lab's.
    pub fn namespace(&self, role: &str) -> Result<Namespace> {
        let namespace = Namespace::create(&registry::namespace_name(&self.id, role))?;
        network::prepare(&namespace)?;
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// A place for files of this role.
    pub fn directory(&self, role: &str) -> PathBuf {
        registry::directory(&self.id).join(role)
    }

    /// Lays a cable without offloads; returns when both ends have a carrier.
    pub fn connect(&self, ends: [End<'_>; 2]) -> Result<()> {
        let [one, other] = ends;
        run(Command::new("ip")
            .args(["link", "add", one.interface, "address", &text(one.mac)])
            .args(["netns", one.namespace.name(), "type", "veth", "peer", "name", other.interface])
            .args(["address", &text(other.mac), "netns", other.namespace.name()]))?;
        for end in ends {
            network::offloads_off(end.namespace, end.interface)?;
            end.namespace.ip(&format!("link set {} up\n", end.interface))?;
        }
        let is_up = |end: &End<'_>| end.namespace.link(end.interface)["operstate"] == "UP";
        if !wait_until(Duration::from_secs(5), || ends.iter().all(is_up)) {
            bail!("{} of {} has no carrier", one.interface, one.namespace.name());
        }
        Ok(())
    }
}

impl Namespace {
    /// Runs `ip` commands in it, one a line.
    pub fn ip(&self, lines: &str) -> Result<()> {
        network::ip(self, lines)
    }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Drop for Cables {
    fn drop(&mut self) {
        if let Err(why) = registry::down(&self.id) {
            eprintln!("{} is not quite gone: {why:#}", self.id);
        }
    }
}
