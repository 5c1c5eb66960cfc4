//! The kernel: version, BPF, BTF, bpffs, privileges, and the ports that NAT shares with it.

use std::{fs, io, path::Path};

use super::Finding;
use crate::shell;

const AREA: &str = "kernel";
/// The oldest kernel the program is verified on.
const MINIMUM: (u32, u32) = (6, 1);
/// Source ports that `nat` uses by default.
const NAT_PORTS: (u16, u16) = (1024, 32767);

pub(super) fn findings() -> Vec<Finding> {
    vec![version(), bpf_syscall(), jit(), btf(), bpffs(), privileges(), local_ports()]
}

fn version() -> Finding {
    let release = read("/proc/sys/kernel/osrelease");
    let minimum = format!("{}.{}", MINIMUM.0, MINIMUM.1);
    match parse_version(&release) {
        Some(version) if version >= MINIMUM => {
            Finding::ok(AREA, "version", format!("{release} (at least {minimum})"))
        }
        _ => Finding::fail(
            AREA,
            "version",
            format!("{release} is older than {minimum}"),
            "boot a newer kernel, on Debian 11 for example the one of backports",
        ),
    }
}

fn bpf_syscall() -> Finding {
    const BPF_MAP_CREATE: libc::c_long = 0;
    let attributes = [0u8; 0];
    // SAFETY: a size of 0 makes the kernel read nothing; the call can only fail.
    unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attributes.as_ptr(), 0) };
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::ENOSYS) => Finding::fail(
            AREA,
            "bpf",
            "the kernel has no bpf system call",
            "use a kernel built with CONFIG_BPF_SYSCALL",
        ),
        Some(libc::EPERM) if shell::is_root() => Finding::fail(
            AREA,
            "bpf",
            "root may not call bpf here",
            "in a container, add CAP_BPF (or CAP_SYS_ADMIN) and allow bpf in its seccomp profile",
        ),
        _ => Finding::ok(AREA, "bpf", "the system call is there"),
    }
}

fn jit() -> Finding {
    match read("/proc/sys/net/core/bpf_jit_enable").as_str() {
        "0" => Finding::warn(
            AREA,
            "jit",
            "off: programs are interpreted, several times slower",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        "" => Finding::ok(AREA, "jit", "not readable here; most kernels have it always on"),
        _ => Finding::ok(AREA, "jit", "on"),
    }
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Finding::ok(AREA, "btf", "/sys/kernel/btf/vmlinux");
    }
    Finding::warn(
        AREA,
        "btf",
        "the kernel does not describe its types",
        "use a kernel built with CONFIG_DEBUG_INFO_BTF; without it programs load, tools show less",
    )
}

fn bpffs() -> Finding {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "bpf").then(|| at.to_owned())
    });
    match mounted {
        Some(at) => Finding::ok(AREA, "bpffs", at),
        None => Finding::fail(
            AREA,
            "bpffs",
            "not mounted: nothing can be pinned",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
    }
}

fn privileges() -> Finding {
    // Bits of <linux/capability.h>.
    const NEEDED: [(&str, u32); 4] =
        [("NET_ADMIN", 12), ("NET_RAW", 13), ("PERFMON", 38), ("BPF", 39)];
    let status = read("/proc/self/status");
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let lacking: Vec<_> = NEEDED
        .iter()
        .filter(|(_, bit)| effective & (1 << bit) == 0)
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    if lacking.is_empty() {
        return Finding::ok(AREA, "privileges", "CAP_BPF, NET_ADMIN, PERFMON and NET_RAW");
    }
    Finding::warn(
        AREA,
        "privileges",
        format!("this user lacks {}", lacking.join(", ")),
        "run lb, the lab, demo and tests as root or with sudo",
    )
}

fn local_ports() -> Finding {
    let text = read("/proc/sys/net/ipv4/ip_local_port_range");
    let mut ports = text.split_whitespace().map(|port| port.parse::<u16>());
    let (Some(Ok(low)), Some(Ok(high))) = (ports.next(), ports.next()) else {
        return Finding::warn(
            AREA,
            "local ports",
            "ip_local_port_range is not readable",
            "check that it leaves the ports of nat alone",
        );
    };
    let nat = format!("{}-{}", NAT_PORTS.0, NAT_PORTS.1);
    if low > NAT_PORTS.1 || high < NAT_PORTS.0 {
        return Finding::ok(
            AREA,
            "local ports",
            format!("{low}-{high}, apart from those of nat ({nat})"),
        );
    }
    Finding::warn(
        AREA,
        "local ports",
        format!("{low}-{high} overlap the ports that nat uses by default ({nat})"),
        &format!("sysctl -w net.ipv4.ip_local_port_range=\"{} 60999\"", u32::from(NAT_PORTS.1) + 1),
    )
}

fn parse_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(parse_version("6.1.0-18-amd64"), Some((6, 1)));
        assert!(parse_version("6.18.44") > parse_version("6.9"));
        assert!(parse_version("5.15.0") < Some((6, 1)));
        assert_eq!(parse_version("unknown"), None);
    }
}
