//! One network interface: its driver and XDP, and the settings that matter to it.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command, thread};

use serde_json::Value;

use super::{Finding, kernel::read};
use crate::shell::capture;

const AREA: &str = "interface";

/// Drivers with native XDP in a current kernel.
const NATIVE_XDP: [&str; 36] = [
    "aquantia",
    "atlantic",
    "bnxt_en",
    "bonding",
    "dpaa2-eth",
    "ena",
    "fec",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "fun_eth",
    "gve",
    "hv_netvsc",
    "i40e",
    "iavf",
    "ice",
    "idpf",
    "igb",
    "igc",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_en",
    "mlx5_core",
    "mtk_soc_eth",
    "mvneta",
    "mvpp2",
    "netdevsim",
    "nfp",
    "qede",
    "sfc",
    "stmmac",
    "thunder-nic",
    "tsnep",
    "tun",
    "veth",
    "virtio_net",
];
/// The largest MTU of native XDP without multi-buffer support: a page less headroom and tail room.
const MTU_LIMIT: u64 = 3498;

pub(super) fn findings(name: &str) -> Vec<Finding> {
    let Ok(Some(link)) = link(name) else {
        let remedy = "`ip link` lists the interfaces";
        return vec![Finding::fail(AREA, name, "no such interface", remedy)];
    };
    let driver = driver(name, &link);
    let mut findings = vec![driver_finding(name, &driver), state(name, &link)];
    findings.push(mtu(name, &link));
    findings.push(attached(name, &link));
    findings.extend(offloads(name));
    findings.extend(queues(name, &driver));
    findings.extend(peer(&driver, &link));
    findings.push(addresses(name));
    findings
}

fn link(name: &str) -> anyhow::Result<Option<Value>> {
    let text = capture(Command::new("ip").args(["-d", "-j", "link", "show", "dev", name]))?;
    let links: Value = serde_json::from_str(&text)?;
    Ok(links.get(0).cloned())
}

/// From ethtool, else from sysfs, else the kind of a virtual link.
fn driver(name: &str, link: &Value) -> String {
    let ethtool = capture(Command::new("ethtool").args(["-i", name])).unwrap_or_default();
    if let Some(driver) = ethtool.lines().find_map(|line| line.strip_prefix("driver: ")) {
        return driver.to_owned();
    }
    let sysfs = fs::read_link(format!("/sys/class/net/{name}/device/driver")).ok();
    sysfs
        .and_then(|path: PathBuf| Some(path.file_name()?.to_str()?.to_owned()))
        .or_else(|| link["linkinfo"]["info_kind"].as_str().map(str::to_owned))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn driver_finding(name: &str, driver: &str) -> Finding {
    let bus = read(format!("/sys/class/net/{name}/device/uevent"));
    let bus = bus.lines().find_map(|line| line.strip_prefix("PCI_ID=")).unwrap_or("");
    let detail = format!("{driver} {bus}");
    let detail = detail.trim();
    if NATIVE_XDP.contains(&driver) {
        return Finding::ok(AREA, "driver", format!("{detail}, with native XDP"));
    }
    Finding::warn(
        AREA,
        "driver",
        format!("{detail}: not known to have native XDP"),
        "generic mode works and is slower; for speed use a NIC with native XDP",
    )
}

fn state(name: &str, link: &Value) -> Finding {
    let flags = link["flags"].as_array().cloned().unwrap_or_default();
    let has = |flag: &str| flags.iter().any(|value| value == flag);
    match (has("UP"), has("LOWER_UP")) {
        (true, true) => Finding::ok(AREA, "state", "up, with carrier"),
        (true, false) => {
            Finding::fail(AREA, "state", "up, without carrier", "check the cable or the peer")
        }
        _ => Finding::fail(AREA, "state", "down", &format!("ip link set {name} up")),
    }
}

fn mtu(name: &str, link: &Value) -> Finding {
    let mtu = link["mtu"].as_u64().unwrap_or_default();
    if mtu <= MTU_LIMIT {
        return Finding::ok(AREA, "mtu", format!("{mtu} (native XDP takes {MTU_LIMIT} or less)"));
    }
    Finding::fail(
        AREA,
        "mtu",
        format!("{mtu} is more than native XDP takes ({MTU_LIMIT})"),
        &format!("ip link set {name} mtu 1500"),
    )
}

fn attached(name: &str, link: &Value) -> Finding {
    let program = &link["xdp"]["prog"];
    if program.is_null() {
        return Finding::ok(AREA, "xdp", "no program is attached");
    }
    let id = program["id"].as_u64().unwrap_or_default();
    let what = program["name"].as_str().unwrap_or("without a name");
    Finding::warn(
        AREA,
        "xdp",
        format!("program {id} ({what}) is attached"),
        &format!("if it is not lb's: ip link set {name} xdp off"),
    )
}

fn offloads(name: &str) -> Vec<Finding> {
    let text = capture(Command::new("ethtool").args(["-k", name])).unwrap_or_default();
    let features: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.trim().split_once(": ")).collect();
    let on = |feature: &str| features.get(feature).is_some_and(|value| value.starts_with("on"));
    if features.is_empty() {
        let remedy = "cargo xtask setup --lab (installs ethtool)";
        return vec![Finding::warn(AREA, "offloads", "not readable without ethtool", remedy)];
    }
    let lro = if on("large-receive-offload") {
        Finding::fail(
            AREA,
            "lro",
            "on: frames are merged before XDP sees them, and most drivers refuse XDP",
            &format!("ethtool -K {name} lro off"),
        )
    } else {
        Finding::ok(AREA, "lro", "off")
    };
    let gro = if on("rx-gro-hw") {
        Finding::warn(
            AREA,
            "gro",
            "hardware GRO is on: frames are merged before XDP sees them",
            &format!("ethtool -K {name} rx-gro-hw off"),
        )
    } else {
        Finding::ok(AREA, "gro", "only after XDP, or off")
    };
    vec![lro, gro]
}

/// virtio_net needs a send queue for each CPU besides those of the stack, or XDP_TX takes a lock per packet.
fn queues(name: &str, driver: &str) -> Vec<Finding> {
    let count = |prefix: &str| {
        let entries = fs::read_dir(format!("/sys/class/net/{name}/queues"));
        let names = entries.into_iter().flatten().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix)).count()
    };
    let (receive, send) = (count("rx-"), count("tx-"));
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let detail = format!("{receive} to receive, {send} to send, {cpus} CPUs");
    if driver != "virtio_net" {
        return vec![Finding::ok(AREA, "queues", detail)];
    }
    let channels = capture(Command::new("ethtool").args(["-l", name])).unwrap_or_default();
    let mut combined = channels
        .lines()
        .filter_map(|line| line.strip_prefix("Combined:")?.trim().parse::<usize>().ok());
    let (most, used) = (combined.next().unwrap_or(send), combined.next().unwrap_or(send));
    if most >= used + cpus {
        return vec![Finding::ok(AREA, "queues", detail)];
    }
    let wanted = most.saturating_sub(cpus);
    let remedy = if wanted >= 1 {
        format!("ethtool -L {name} combined {wanted}")
    } else {
        format!(
            "give the virtual machine {} queues, then ethtool -L {name} combined {cpus}",
            2 * cpus
        )
    };
    vec![Finding::warn(
        AREA,
        "queues",
        format!("{used} of {most} are used by the stack, and XDP wants {cpus} of its own"),
        &remedy,
    )]
}

fn peer(driver: &str, link: &Value) -> Option<Finding> {
    (driver == "veth").then(|| {
        let index = link["link_index"].as_u64().map_or("unknown".to_owned(), |i| i.to_string());
        Finding::warn(
            AREA,
            "veth peer",
            format!("what XDP transmits reaches the peer (interface {index}) only if that has XDP"),
            "attach a program that returns XDP_PASS to the peer, as the lab does",
        )
    })
}

fn addresses(name: &str) -> Finding {
    let text = capture(Command::new("ip").args(["-j", "address", "show", "dev", name]));
    let json: Value = text.ok().and_then(|t| serde_json::from_str(&t).ok()).unwrap_or_default();
    let addresses: Vec<_> = json[0]["addr_info"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|address| address["scope"] == "global")
        .filter_map(|a| Some(format!("{}/{}", a["local"].as_str()?, a["prefixlen"])))
        .collect();
    if addresses.is_empty() {
        let remedy = "give it one: probes and nat need a source address";
        return Finding::warn(AREA, "addresses", "none", remedy);
    }
    Finding::ok(AREA, "addresses", format!("{} (ip_forward is not needed)", addresses.join(", ")))
}
