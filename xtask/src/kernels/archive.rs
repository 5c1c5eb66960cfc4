//! Debian packages, downloaded and unpacked but never installed: apt runs with lists and sources of its own under
//! `target/kernels`, so neither this machine's apt nor its kernel changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::shell::{capture, find_program};

/// The release whose first kernel is the oldest that Holdfast supports, and where its newer ones are.
const SUITES: [&str; 2] = ["bookworm", "bookworm-backports"];
/// Kernels change this often; a run within it needs no network.
const LISTS_LAST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

pub(super) struct Archive {
    directory: PathBuf,
}

impl Archive {
    /// Opens the cache, with package lists that are not too old.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            if find_program(program).is_none() {
                bail!(
                    "there is no `{program}` to get Debian's kernel packages with; on another system install it (Debian \
                     calls the packages apt and dpkg)"
                );
            }
        }
        let archive = Self { directory: directory.to_owned() };
        for part in ["apt/none", "apt/lists/partial", "apt/cache/archives/partial", "debs"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        if archive.lists_are_old() {
            // Old lists are better than none: the packages may be in the cache.
            match archive.update() {
                Err(why) if archive.kernels().is_ok() => {
                    eprintln!("    the package lists stay as they are: {why:#}");
                }
                done => done?,
            }
        }
        Ok(archive)
    }

    /// All kernels there are, by the names of their packages.
    pub(super) fn kernels(&self) -> Result<Vec<String>> {
        let pattern = "^linux-image-[0-9].*-cloud-amd64$";
        let mut search = self.apt("apt-cache");
        let found = capture(search.args(["search", "--names-only", pattern]))?;
        let names = found.lines().filter_map(|line| line.split(' ').next());
        let names: Vec<_> = names.map(String::from).collect();
        if names.is_empty() {
            bail!(
                "the package lists name no kernel: remove {} and try again",
                self.list_directory()
            );
        }
        Ok(names)
    }

    /// The package's files, unpacked.
    pub(super) fn package(&self, name: &str) -> Result<PathBuf> {
        let debs = self.directory.join("debs");
        let deb = match cached(&debs, name)? {
            Some(deb) => deb,
            None => {
                eprintln!("==> downloading {name}");
                if self.download(name, &debs).is_err() {
                    // The lists may be older than the archive.
                    self.update()?;
                    self.download(name, &debs)
                        .with_context(|| format!("apt could not download {name}"))?;
                }
                cached(&debs, name)?.with_context(|| {
                    format!("apt downloaded {name}, but it is not in {}", debs.display())
                })?
            }
        };
        self.unpack(&deb)
    }

    /// A package file's content, below a directory that is named like it.
    pub(super) fn unpack(&self, deb: &Path) -> Result<PathBuf> {
        let name = deb.file_stem().with_context(|| format!("{} is no file", deb.display()))?;
        let root = self.directory.join("unpacked").join(name);
        let done = root.join(".unpacked");
        if is_newer(&done, deb) {
            return Ok(root);
        }
        fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
        capture(Command::new("dpkg-deb").arg("--extract").arg(deb).arg(&root))?;
        fs::write(&done, "")?;
        Ok(root)
    }

    fn download(&self, name: &str, to: &Path) -> Result<()> {
        capture(self.apt("apt-get").current_dir(to).args(["download", name])).map(drop)
    }

    fn lists_are_old(&self) -> bool {
        let updated = fs::metadata(self.stamp()).and_then(|file| file.modified()).ok();
        updated.and_then(|at| at.elapsed().ok()).is_none_or(|age| age > LISTS_LAST)
    }

    fn update(&self) -> Result<()> {
        eprintln!("==> reading the package lists of {}", SUITES.join(" and "));
        let mirror = mirror()?;
        let lines = SUITES.map(|suite| {
            // Debian's keyring is trusted only for this; other systems may trust it for nothing.
            format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n")
        });
        if !Path::new(KEYRING).is_file() {
            bail!("{KEYRING} is missing: install the package debian-archive-keyring");
        }
        fs::write(self.directory.join("apt/sources.list"), lines.concat())?;
        capture(self.apt("apt-get").args(["--quiet", "update"]))
            .context("apt could not read the package lists; is there a network?")?;
        fs::write(self.stamp(), "")?;
        Ok(())
    }

    fn stamp(&self) -> PathBuf {
        self.directory.join("apt/updated")
    }

    fn list_directory(&self) -> String {
        self.directory.join("apt").display().to_string()
    }

    /// apt with everything that it would read or write about packages in our own directory.
    fn apt(&self, program: &str) -> Command {
        let own = self.directory.join("apt");
        let at = |path: &str| own.join(path).display().to_string();
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", at("none")),
            ("Dir::Etc::preferencesparts", at("none")),
            ("Dir::State::lists", at("lists")),
            ("Dir::Cache", at("cache")),
            ("Acquire::Languages", "none".into()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into()),
            // Root's apt would download as another user, who may not write here.
            ("APT::Sandbox::User", "root".into()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }
}

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where this machine gets Debian's packages: the mirror that it was set up with.
fn mirror() -> Result<String> {
    let format = "$(ORIGIN)/$(LABEL) $(REPO_URI)";
    let targets = capture(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))?;
    mirror_of(&targets).context(
        "this machine's apt knows no Debian mirror: give the .deb file of a kernel (linux-image-…-cloud-amd64) instead",
    )
}

/// Origin and label are empty until the machine's own lists were read once; the address tells, too.
fn mirror_of(targets: &str) -> Option<String> {
    let repositories = || targets.lines().filter_map(|line| line.split_once(' '));
    let by_name = repositories().find(|(name, _)| *name == "Debian/Debian");
    let found = by_name
        .or_else(|| repositories().find(|(_, uri)| uri.trim_end_matches('/').ends_with("/debian")));
    found.map(|(_, uri)| uri.to_owned())
}

/// The newest file of a package in the cache.
fn cached(debs: &Path, package: &str) -> Result<Option<PathBuf>> {
    let prefix = format!("{package}_");
    let mut newest = None;
    for entry in fs::read_dir(debs).with_context(|| format!("cannot read {}", debs.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) && name.ends_with(".deb") {
            newest = newest.max(Some((entry.metadata()?.modified()?, entry.path())));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

fn is_newer(path: &Path, than: &Path) -> bool {
    let modified = |path| fs::metadata(path).and_then(|file| file.modified()).ok();
    modified(path).zip(modified(than)).is_some_and(|(this, other)| this >= other)
}

#[cfg(test)]
mod tests {
    use super::mirror_of;

    #[test]
    fn the_mirror_is_debians_own_archive() {
        for (targets, found) in [
            (
                "nodistro/nodistro https://x.example/\nDebian/Debian http://d.example/debian/\n",
                Some("http://d.example/debian/"),
            ),
            ("Debian/Debian-Security http://d.example/debian-security/\n", None),
            ("$(ORIGIN)/$(LABEL) http://d.example/debian\n", Some("http://d.example/debian")),
            ("Ubuntu/Ubuntu http://u.example/ubuntu/\n", None),
            ("", None),
        ] {
            assert_eq!(mirror_of(targets).as_deref(), found, "{targets:?}");
        }
    }
}
