//! Values that are one of a few words, each list in one place.

use std::fmt;

use super::{Method, Rcode, RecordType};

/// What is written as one of a few words.
pub(crate) trait Word: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }
}

impl Word for Method {
    const ALL: &'static [(&'static str, Self)] = &[
        ("GET", Self::Get),
        ("HEAD", Self::Head),
        ("OPTIONS", Self::Options),
        ("POST", Self::Post),
    ];
}

impl Word for RecordType {
    const ALL: &'static [(&'static str, Self)] = &[
        ("A", Self::A),
        ("AAAA", Self::Aaaa),
        ("CNAME", Self::Cname),
        ("MX", Self::Mx),
        ("NS", Self::Ns),
        ("PTR", Self::Ptr),
        ("SOA", Self::Soa),
        ("SRV", Self::Srv),
        ("TXT", Self::Txt),
    ];
}

impl Word for Rcode {
    const ALL: &'static [(&'static str, Self)] = &[
        ("NOERROR", Self::NoError),
        ("FORMERR", Self::FormErr),
        ("SERVFAIL", Self::ServFail),
        ("NXDOMAIN", Self::NxDomain),
        ("NOTIMP", Self::NotImp),
        ("REFUSED", Self::Refused),
    ];
}

macro_rules! display {
    ($($word:ty),*) => {$(
        impl fmt::Display for $word {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.word())
            }
        }
    )*};
}
display!(Method, RecordType, Rcode);
