//! What `cargo xtask bench` runs beside the lab's programs: the load balancers that Holdfast is compared with.

use std::path::Path;

use anyhow::Result;

use super::{apt, ok};
use crate::shell;

/// A program, or the file of a module; the package that has it, and what it is for.
pub(crate) const BENCH_PROGRAMS: [(&str, &str, &str); 4] = [
    ("haproxy", "haproxy", "the proxy to compare with, in TCP mode"),
    ("nginx", "nginx-light", "servers, and the other proxy to compare with"),
    (
        "/usr/lib/nginx/modules/ngx_stream_module.so",
        "libnginx-mod-stream",
        "what makes nginx a TCP proxy",
    ),
    ("nft", "nftables", "the kernel's own load balancing"),
];

/// Services that packages of the list would start.
const SERVICES: [(&str, &str); 2] = [("haproxy", "haproxy"), ("nginx-light", "nginx")];

/// Installs what is missing; nothing of it is left running.
pub(crate) fn install_programs() -> Result<()> {
    let missing: Vec<_> = BENCH_PROGRAMS.iter().filter(|(name, ..)| !is_there(name)).collect();
    if !missing.is_empty() {
        let packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
        let reasons: Vec<_> =
            missing.iter().map(|(_, package, why)| format!("{package} ({why})")).collect();
        apt::install(&packages, &format!("benchmarks need {}", reasons.join(", ")))?;
        let started = SERVICES.iter().filter(|(package, _)| packages.contains(package));
        started.into_iter().try_for_each(|(_, service)| apt::stop_service(service))?;
    }
    let packages: Vec<&str> = BENCH_PROGRAMS.iter().map(|(_, package, _)| *package).collect();
    ok("bench", &packages.join(", "));
    Ok(())
}

fn is_there(name: &str) -> bool {
    if name.starts_with('/') {
        Path::new(name).exists()
    } else {
        shell::find_program(name).is_some()
    }
}
