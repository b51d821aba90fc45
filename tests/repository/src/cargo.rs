//! What Cargo knows about the workspace.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate is two folders below the root")
}

/// The packages of the workspace, without their dependencies.
pub(crate) fn workspace() -> Vec<Value> {
    packages(&["--no-deps"])
}

/// All packages that the workspace is built from on this platform.
pub(crate) fn everything() -> Vec<Value> {
    let compiler = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(compiler.stdout).unwrap();
    let platform = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its platform");
    packages(&["--locked", "--filter-platform", platform])
}

fn packages(arguments: &[&str]) -> Vec<Value> {
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--format-version", "1"])
        .args(arguments)
        .current_dir(root())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&cargo.stderr);
    assert!(cargo.status.success(), "{errors}");
    let mut metadata: Value = serde_json::from_slice(&cargo.stdout).unwrap();
    metadata["packages"]
        .as_array_mut()
        .map(std::mem::take)
        .unwrap()
}

/// The name of a package, or of a dependency.
pub(crate) fn name(package: &Value) -> &str {
    package["name"].as_str().unwrap()
}

/// The folder of a package.
pub(crate) fn folder(package: &Value) -> PathBuf {
    let manifest = Path::new(package["manifest_path"].as_str().unwrap());
    manifest.parent().unwrap().to_owned()
}

/// The packages that a package is built from. Those that only its tests use are left out.
pub(crate) fn needs(package: &Value) -> BTreeSet<&str> {
    let dependencies = package["dependencies"].as_array().unwrap().iter();
    dependencies
        .filter(|needed| needed["kind"].is_null())
        .map(name)
        .collect()
}
