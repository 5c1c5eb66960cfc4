//! The committed corpus, replayed; and the seeds that it grew from.

use std::path::{Path, PathBuf};

use super::TARGETS;

fn corpus(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target)
}

#[test]
fn the_corpus_holds() {
    for (name, target) in TARGETS {
        let files = corpus(name).read_dir().unwrap_or_else(|why| panic!("corpus of {name}: {why}"));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        assert!(paths.len() > 20, "corpus of {name}: {} files", paths.len());
        paths.sort();
        for path in paths {
            // Where it fails is in the panic; of what, in the captured output.
            println!("{}", path.display());
            target(&std::fs::read(&path).unwrap());
        }
    }
}

/// `HOLDFAST_SEEDS=DIR cargo test -p lb-common seeds -- --ignored`: what the corpus began with.
#[test]
#[ignore = "writes files"]
fn seeds_are_written() {
    let Ok(to) = std::env::var("HOLDFAST_SEEDS") else { panic!("HOLDFAST_SEEDS says where") };
    for (target, seeds) in seeds::all() {
        assert!(TARGETS.iter().any(|(name, _)| *name == target));
        let to = Path::new(&to).join(target);
        std::fs::create_dir_all(&to).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(to.join(format!("{number:03}")), seed).unwrap();
        }
    }
}

mod seeds;
