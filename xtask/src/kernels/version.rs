//! Kernel versions as the numbers in them: `6.1` is the start of `6.1.0-50-cloud-amd64`, not of `6.12.95+deb12`.

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(Vec<u32>);

impl Version {
    /// The version of a package of Debian's kernel for virtual machines: it needs no driver that is not built in.
    pub(super) fn of_package(name: &str) -> Option<Self> {
        let version = name.strip_prefix("linux-image-")?.strip_suffix("-cloud-amd64")?;
        Self::parse(version)
    }

    /// `None` if it does not begin with a number.
    pub(super) fn parse(text: &str) -> Option<Self> {
        text.starts_with(|first: char| first.is_ascii_digit()).then(|| {
            let numbers = text.split(|c: char| !c.is_ascii_digit());
            Self(numbers.filter_map(|number| number.parse().ok()).collect())
        })
    }

    /// Whether `other` is this version, or one of it in more detail.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

/// The newest of these packages, of the version asked for if there is one.
pub(super) fn newest<'a>(packages: &'a [String], of: Option<&Version>) -> Option<&'a str> {
    let versions = packages.iter().filter_map(|name| Some((Version::of_package(name)?, name)));
    let fitting = versions.filter(|(version, _)| of.is_none_or(|of| of.covers(version)));
    fitting.max().map(|(_, name)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::{Version, newest};

    #[test]
    fn the_newest_of_a_version_is_found_by_its_numbers() {
        let packages = [
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-50-cloud-amd64",
            "linux-image-6.1.0-51-cloud-amd64-unsigned",
            "linux-image-6.1.0-52-amd64",
            "linux-image-6.12.9+deb12-cloud-amd64",
            "linux-image-6.12.95+deb12-cloud-amd64",
            "linux-image-cloud-amd64",
        ]
        .map(String::from);
        for (asked, found) in [
            (Some("6.1"), Some("linux-image-6.1.0-50-cloud-amd64")),
            (Some("6.1.0-9"), Some("linux-image-6.1.0-9-cloud-amd64")),
            (Some("6.12"), Some("linux-image-6.12.95+deb12-cloud-amd64")),
            (Some("6.9"), None),
            (None, Some("linux-image-6.12.95+deb12-cloud-amd64")),
        ] {
            let version = asked.and_then(Version::parse);
            assert_eq!(newest(&packages, version.as_ref()), found, "{asked:?}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        assert_eq!(Version::parse("newest"), None);
        assert_eq!(Version::of_package("linux-image-cloud-amd64"), None);
    }
}
