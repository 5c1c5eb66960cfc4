//! The guest's whole file system as a `newc` archive (Documentation/driver-api/early-userspace/buffer-format.rst):
//! a format so small that writing it costs less than requiring `cpio`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Modules that the test needs where they are no part of the kernel: programs of tc as filters.
const MODULES: [&str; 2] = ["sch_ingress", "cls_bpf"];

/// An archive with the init script, busybox and the test program.
pub(super) fn build(busybox: &Path, test: &Path) -> Result<Vec<u8>> {
    let read =
        |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let mut archive = Archive::default();
    // /dev/console, which init's output goes to, is in the kernel's own part of the file system.
    for directory in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.add(directory, DIRECTORY, &[]);
    }
    archive.add("init", PROGRAM, include_bytes!("init.sh"));
    archive.add("bin/busybox", PROGRAM, &read(busybox)?);
    archive.add("dataplane", PROGRAM, &read(test)?);
    Ok(archive.finish())
}

/// An archive with a kernel's own modules, to follow the other one: the kernel unpacks one after the
/// other. `package` is the kernel's, unpacked.
pub(super) fn modules(package: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.add("modules", DIRECTORY, &[]);
    let versions = fs::read_dir(package.join("lib/modules")).into_iter().flatten().flatten();
    for version in versions {
        let directory = version.path().join("kernel/net/sched");
        for name in MODULES {
            let plain = directory.join(format!("{name}.ko"));
            let packed = directory.join(format!("{name}.ko.xz"));
            let content = if plain.exists() {
                fs::read(&plain).with_context(|| format!("cannot read {}", plain.display()))?
            } else if packed.exists() {
                unpack(&packed)?
            } else {
                continue;
            };
            archive.add(&format!("modules/{name}.ko"), FILE, &content);
        }
    }
    Ok(archive.finish())
}

fn unpack(packed: &PathBuf) -> Result<Vec<u8>> {
    let output = Command::new("xz").arg("-dc").arg(packed).output().context("cannot run xz")?;
    if !output.status.success() {
        bail!("xz does not unpack {}", packed.display());
    }
    Ok(output.stdout)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let links = 1;
        // inode, mode, uid, gid, links, time, size, device (2), special device (2), length of the name, checksum
        let fields = [
            self.entries as usize,
            mode as usize,
            0,
            0,
            links,
            0,
            content.len(),
            0,
            0,
            0,
            0,
            name.len() + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::{Archive, PROGRAM};

    #[test]
    fn header_name_and_content_are_padded_to_four_bytes() {
        let mut archive = Archive::default();
        archive.add("init", PROGRAM, b"hello");
        let bytes = archive.finish();
        // Header of 110, "init\0", one byte of padding; five bytes of content, three of padding.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[6..22], b"00000001000081ed");
        assert_eq!(&bytes[54..62], b"00000005", "size");
        assert_eq!(&bytes[94..102], b"00000005", "length of the name");
        assert_eq!(&bytes[110..116], b"init\0\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(bytes.len() % 4, 0);
    }
}
