//! One kernel in an emulated machine, from its start to the result line that the guest prints.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// What the guest's first words begin with; what came before is the firmware's.
const BOOT: &str = "holdfast-boot ";
/// What the guest's last words are marked with.
const RESULT: &str = "holdfast-result ";

/// What to boot.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initramfs: &'a Path,
    /// `NAME=value` for the test's environment.
    pub(super) environment: &'a [String],
    /// All that the guest printed.
    pub(super) log: &'a Path,
    pub(super) limit: Duration,
}

/// The line that the guest printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) kernel: String,
    /// The test program's exit code.
    pub(super) exit: i32,
    pub(super) tests_passed: Option<u32>,
    pub(super) tests_failed: Option<u32>,
    /// Missing if the program did not load.
    pub(super) verified_instructions: Option<u32>,
    /// Of the programs that lead probes.
    pub(super) probes_instructions: Option<u32>,
}

impl Machine<'_> {
    /// Boots, and waits for the end. An error is a machine that gave no result.
    pub(super) fn run(&self) -> Result<Told> {
        let log = File::create(self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = self.command();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let mut guest = Guest(child.context("cannot run qemu-system-x86_64")?);
        let ended = guest.wait(self.limit)?;
        let output = self.output();
        match (result_of(&output), ended) {
            (Some(told), _) => Ok(told),
            (None, None) => bail!(
                "no result within {} s; give it more with --timeout, or fewer packets with HOLDFAST_PACKETS",
                self.limit.as_secs()
            ),
            (None, Some(status)) => bail!("the machine ended without a result (qemu: {status})"),
        }
    }

    /// What the guest printed last, without the characters by which the firmware clears the terminal.
    pub(super) fn tail(&self, lines: usize) -> String {
        let output = self.output().replace(|c: char| c.is_control() && c != '\n', "");
        let output = output.rfind(BOOT).map_or(output.as_str(), |at| &output[at..]);
        let all: Vec<&str> = output.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    fn output(&self) -> String {
        let bytes = fs::read(self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\r', "")
    }

    fn command(&self) -> Command {
        let mut command = Command::new("qemu-system-x86_64");
        // Emulated, not KVM: the result then depends on no hardware, and CI machines seldom have it.
        command
            // Without `cmpxchg16b`: with it, every second boot of 6.12 dies in Debian 12's qemu (7.2), mostly in
            // kmem_cache_alloc, which uses it, and with flags in the oops that no processor has.
            .args(["-accel", "tcg,thread=multi", "-cpu", "max,cx16=off", "-smp", "2", "-m", "1024"])
            .args(["-nographic", "-nic", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            .arg(format!("console=ttyS0 panic=-1 quiet {}", self.environment.join(" ")));
        command
    }
}

/// A running emulator; it does not outlive this value.
struct Guest(Child);

impl Guest {
    /// `None`: it was still running after `limit`.
    fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            sleep(Duration::from_millis(50));
        }
        Ok(None)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kernel image in an unpacked package.
pub(super) fn image(package: &Path) -> Result<PathBuf> {
    let boot = package.join("boot");
    let entries = fs::read_dir(&boot).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_image = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
    };
    entries.into_iter().find(is_image).with_context(|| {
        format!(
            "{} holds no kernel (boot/vmlinuz-…): is it a linux-image package?",
            package.display()
        )
    })
}

fn result_of(output: &str) -> Option<Told> {
    let line = output.lines().rev().find_map(|line| line.split_once(RESULT))?.1;
    serde_json::from_str(line).ok()
}

#[cfg(test)]
mod tests {
    use super::{Told, result_of};

    #[test]
    fn the_result_line_is_found_and_read() {
        let told = Told {
            kernel: "6.1.0-50-cloud-amd64".into(),
            exit: 101,
            tests_passed: Some(1),
            tests_failed: Some(20),
            verified_instructions: None,
            probes_instructions: Some(3863),
        };
        let line = "test x ... ok\nholdfast-result {\"kernel\": \"6.1.0-50-cloud-amd64\", \"exit\": 101, \
                    \"tests_passed\": 1, \"tests_failed\": 20, \"verified_instructions\": null, \"probes_instructions\": 3863}\n[ 1.0] Power down";
        assert_eq!(result_of(line), Some(told));
        assert_eq!(result_of("Kernel panic"), None);
        assert_eq!(result_of("holdfast-result {\"kernel\""), None);
    }
}
