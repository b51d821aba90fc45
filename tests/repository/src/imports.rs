//! Finds which modules each module of a crate imports. Only `use` statements and paths from
//! `crate::` count as imports; `mod child;` does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// A module's path within its crate; the root is empty.
pub(crate) type Module = Vec<String>;

/// Each module of a crate, with the modules that it imports.
pub(crate) type Imports = BTreeMap<Module, BTreeSet<Module>>;

/// Reads the imports of a crate from the folder of its sources. Tests inside files are left out.
pub(crate) fn imports(source: &Path) -> Imports {
    let mut texts = BTreeMap::new();
    read_modules(source, &Module::new(), &mut texts);
    let imported = |module: &Module, text: &str| {
        paths(module, text)
            .iter()
            .filter_map(|path| module_of(path, &texts))
            .filter(|found| found != module)
            .collect()
    };
    texts
        .iter()
        .map(|(module, text)| (module.clone(), imported(module, text)))
        .collect()
}

/// Returns a circle of imports that leads from a module back to it, if there is one.
pub(crate) fn circle_through(imports: &Imports, start: &Module) -> Option<Vec<Module>> {
    let mut seen = BTreeSet::new();
    let mut open = vec![vec![start.clone()]];
    while let Some(way) = open.pop() {
        for next in way.last().and_then(|last| imports.get(last))? {
            if next == start {
                return Some(way);
            }
            if seen.insert(next.clone()) {
                open.push(way.iter().cloned().chain([next.clone()]).collect());
            }
        }
    }
    None
}

/// Reads the sources in a folder into `texts`, by module: without comments, and without the tests
/// at the end of a file. `above` is the module of the folder.
fn read_modules(folder: &Path, above: &Module, texts: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_root = above.is_empty() && matches!(stem.as_str(), "lib" | "main");
        let mut module = above.clone();
        if !is_root {
            module.push(stem.clone());
        }
        if path.is_dir() {
            read_modules(&path, &module, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") && stem != "tests" {
            let text = fs::read_to_string(&path).unwrap();
            let own = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
            let lines = own
                .lines()
                .map(|line| line.split("//").next().unwrap_or(""));
            texts.insert(module, lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Returns the paths within the crate that a module's text names.
fn paths(module: &Module, text: &str) -> Vec<Module> {
    let children: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';')?.rsplit_once("mod "))
        .map(|(_, name)| name)
        .collect();
    let mut found = Vec::new();
    for statement in text.split("use ").skip(1) {
        let tree: String = statement
            .chars()
            .take_while(|c| *c != ';')
            .filter(|c| !c.is_whitespace())
            .collect();
        expand(&Module::new(), &tree, &mut found);
    }
    for path in text.split("crate::").skip(1) {
        let path = path
            .split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
            .next();
        expand(&vec!["crate".to_owned()], path.unwrap_or(""), &mut found);
    }
    found
        .into_iter()
        .filter_map(|path| from_root(module, &children, &path))
        .collect()
}

/// Adds the single paths of a tree of imports to `found`: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(above: &Module, tree: &str, found: &mut Vec<Module>) {
    let mut depth = 0;
    let branches = tree.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    for branch in branches.filter(|branch| !branch.is_empty()) {
        let (path, rest) = branch.split_once('{').unwrap_or((branch, ""));
        let path = path.split("::").filter(|part| !part.is_empty());
        let path: Module = above
            .iter()
            .cloned()
            .chain(path.map(str::to_owned))
            .collect();
        match rest.strip_suffix('}') {
            Some(inner) => expand(&path, inner, found),
            None => found.push(path),
        }
    }
}

/// Returns a path as seen from the root of its crate, or `None` if it leads into another crate.
fn from_root(module: &Module, children: &[&str], path: &[String]) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([module, rest].concat()),
        "super" => {
            let ups = path.iter().take_while(|part| *part == "super").count();
            let base = &module[..module.len().checked_sub(ups)?];
            Some([base, &path[ups..]].concat())
        }
        child if children.contains(&child) => Some([module, path].concat()),
        _ => None,
    }
}

/// Returns the innermost module in a path, or `None` if that is the root. The end of a path may be
/// an item of the module.
fn module_of(path: &[String], texts: &BTreeMap<Module, String>) -> Option<Module> {
    (0..=path.len())
        .rev()
        .map(|length| path[..length].to_vec())
        .find(|module| texts.contains_key(module))
        .filter(|module| !module.is_empty())
}

#[test]
fn a_tree_of_imports_becomes_single_paths() {
    let module: Module = ["a".to_owned(), "b".to_owned()].into();
    let text = "pub mod c;\nuse super::x::{Y, z::{self, W}};\nuse c::D;\nuse std::fmt;\n\
                fn f() { crate::p::q(); }";
    let found: Vec<String> = paths(&module, text)
        .iter()
        .map(|path| path.join("::"))
        .collect();
    assert_eq!(
        found,
        [
            "a::x::Y",
            "a::x::z::self",
            "a::x::z::W",
            "a::b::c::D",
            "p::q"
        ]
    );
}

#[test]
fn circles_are_found() {
    let module = |name: &str| vec![name.to_owned()];
    let imports = |pairs: &[(&str, &str)]| -> Imports {
        let mut imports = Imports::new();
        for (from, to) in pairs {
            imports.entry(module(to)).or_default();
            imports.entry(module(from)).or_default().insert(module(to));
        }
        imports
    };
    let straight = imports(&[("a", "b"), ("b", "c"), ("a", "c")]);
    assert_eq!(circle_through(&straight, &module("a")), None);
    let round = imports(&[("a", "b"), ("b", "c"), ("c", "a")]);
    assert!(circle_through(&round, &module("a")).is_some());
}
