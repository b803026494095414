//! Imports go one way: a module uses those above it in CONTRIBUTING's table ("The house"), and no files import each
//! other in a circle.
//!
//! Read are the `use` declarations and the written-out paths of `src/`, outside tests. A name that a file only passes on
//! (`pub use`) counts as imported from the file that defines it, so a parent may declare and re-export its children, but not
//! lend them what it defines itself while it uses what they define.

use std::collections::{BTreeMap, BTreeSet};

use crate::repository;
use crate::sources::{self, Source};

/// Files that put the others together.
const ROOTS: [&str; 2] = ["src/lib.rs", "src/main.rs"];

/// For each file and another that it takes names from, the line and the name of the first import.
type Arrows = BTreeMap<(String, String), (usize, String)>;

/// The arrows between files, those of re-exported names to where they are defined.
fn arrows(files: &BTreeMap<String, String>) -> Arrows {
    let modules: BTreeMap<Vec<String>, (String, Source)> = files
        .iter()
        .map(|(path, text)| (sources::module(path), (path.clone(), Source::of(path, text))))
        .collect();
    let mut arrows = Arrows::new();
    for (at, (path, source)) in &modules {
        for import in source.imports.iter().filter(|import| !import.passes_on(source)) {
            for target in targets(&modules, at, &import.path, 0) {
                if target != *path {
                    let key = (path.clone(), target);
                    arrows.entry(key).or_insert((import.line, import.path.join("::")));
                }
            }
        }
    }
    arrows
}

/// The files that define the name at the end of a path, as the module `at` writes it.
fn targets(
    modules: &BTreeMap<Vec<String>, (String, Source)>,
    at: &[String],
    path: &[String],
    depth: usize,
) -> Vec<String> {
    assert!(depth < 16, "{path:?} in {at:?} is re-exported in a circle");
    let (mut module, mut rest) = match path[0].as_str() {
        "crate" => (Vec::new(), &path[1..]),
        "self" => (at.to_vec(), &path[1..]),
        "super" => (at[..at.len().saturating_sub(1)].to_vec(), &path[1..]),
        _ => (at.to_vec(), path),
    };
    let relative = matches!(path[0].as_str(), "crate" | "self" | "super");
    while let Some(segment @ ("self" | "super")) = rest.first().map(String::as_str) {
        if segment == "super" {
            module.pop();
        }
        rest = &rest[1..];
    }
    while let Some(segment) = rest.first() {
        let child: Vec<String> = module.iter().chain([segment]).cloned().collect();
        if !modules.contains_key(&child) {
            break;
        }
        (module, rest) = (child, &rest[1..]);
    }
    // The first name of a path that is neither rooted nor a child module is another crate's, or was imported.
    if !relative && module.len() == at.len() {
        return Vec::new();
    }
    let Some((file, source)) = modules.get(&module) else { return Vec::new() };
    let Some(name) = rest.first() else { return vec![file.clone()] };
    if name == "*" || source.defined.contains(name) {
        return vec![file.clone()];
    }
    for import in source.imports.iter().filter(|import| import.name.as_deref() == Some(name)) {
        let of = targets(modules, &module, &import.path, depth + 1);
        if !of.is_empty() {
            return of;
        }
    }
    for import in source.imports.iter().filter(|import| import.path.last().is_some_and(|last| last == "*")) {
        let named: Vec<String> = import.path[..import.path.len() - 1].iter().chain([name]).cloned().collect();
        let of = targets(modules, &module, &named, depth + 1);
        let defines = |file: &String| modules.values().any(|(p, s)| p == file && s.defined.contains(name));
        if of.iter().any(defines) {
            return of;
        }
    }
    vec![file.clone()]
}

/// The parts of `src/` in the order of CONTRIBUTING's table: a file or a directory each.
fn order(contributing: &str) -> Vec<String> {
    let section = contributing.split("## The house").nth(1).unwrap_or_default();
    let rows =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .filter(|place| place.starts_with("src/"))
        .collect()
}

fn place(order: &[String], path: &str) -> Option<usize> {
    order.iter().position(|place| {
        // A file stands for the directory of its modules too.
        let directory = place.strip_suffix(".rs").unwrap_or(place.trim_end_matches('/'));
        path == place || path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
    })
}

/// A line for each import from a part that stands further down, and for each file that is nowhere in the order.
fn against(order: &[String], arrows: &Arrows) -> Vec<String> {
    let mut faults = Vec::new();
    for ((from, to), (line, name)) in arrows {
        if ROOTS.contains(&from.as_str()) {
            continue;
        }
        match (place(order, from), place(order, to)) {
            (Some(from_place), Some(to_place)) if to_place > from_place => faults.push(format!(
                "{from}:{line}: {name} is of {}, which stands below {}",
                order[to_place], order[from_place]
            )),
            (Some(_), Some(_)) => {}
            (None, _) => faults.push(format!("{from} is in no row of the table")),
            (_, None) => {
                faults.push(format!("{from}:{line}: {name} is of {to}, which is in no row of the table"))
            }
        }
    }
    faults.dedup();
    faults
}

/// A paragraph for each set of files that all reach each other.
fn circles(arrows: &Arrows) -> Vec<String> {
    let mut reached: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, _) in arrows.keys() {
        let mut seen = BTreeSet::new();
        let mut open = vec![from.as_str()];
        while let Some(at) = open.pop() {
            let next = arrows.keys().filter(|(f, _)| f == at).map(|(_, to)| to.as_str());
            open.extend(next.filter(|to| seen.insert(*to)));
        }
        reached.insert(from, seen);
    }
    let mut circles: BTreeSet<Vec<&str>> = BTreeSet::new();
    for (from, seen) in &reached {
        let circle: Vec<&str> =
            seen.iter().copied().filter(|to| reached.get(to).is_some_and(|of| of.contains(from))).collect();
        if !circle.is_empty() {
            circles.insert(circle);
        }
    }
    let mut faults = Vec::new();
    for circle in circles {
        let inside = |file: &String| circle.contains(&file.as_str());
        let lines = arrows.iter().filter(|((from, to), _)| inside(from) && inside(to));
        let lines = lines.map(|((from, to), (line, name))| format!("  {from}:{line}: {name}, of {to}"));
        faults.push(format!("a circle of {} files:\n{}", circle.len(), lines.collect::<Vec<_>>().join("\n")));
    }
    faults
}

#[test]
fn imports_go_one_way() {
    let ours =
        |path: &String| path.starts_with("src/") && path.ends_with(".rs") && !path.ends_with("/tests.rs");
    let files = repository::files().into_iter().filter(ours);
    let arrows = arrows(&files.map(|path| (path.clone(), repository::text(&path).unwrap())).collect());
    assert!(arrows.len() > 300, "only {} imports were found", arrows.len());
    let order = order(&repository::text("CONTRIBUTING.md").unwrap());
    assert!(order.len() > 10, "{order:?}");
    let mut faults = against(&order, &arrows);
    faults.extend(circles(&arrows));
    repository::report(&faults);
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "## The house\n\n| where | what |\n| --- | --- |\n| `src/low.rs`, `src/mid/` | a `src/x.rs` |\n\
        | `cuda/` | b |\n| `src/high/` | c |\n\n`src/later.rs`";

    fn found(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let arrows = arrows(&files);
        (against(&order(TABLE), &arrows), circles(&arrows))
    }

    #[test]
    fn the_order_is_that_of_the_table() {
        assert_eq!(order(TABLE), ["src/low.rs", "src/mid/", "src/high/"]);
    }

    #[test]
    fn an_import_from_below_is_a_fault() {
        let low = ("src/low.rs", "\nuse crate::mid::Part;");
        let mid = ("src/mid/mod.rs", "mod part; pub use part::Part;");
        let part = ("src/mid/part.rs", "pub struct Part;");
        let high = ("src/high/mod.rs", "fn f() { crate::mid::Part; }");
        let (order, circles) = found(&[low, mid, part, high]);
        assert_eq!(order, ["src/low.rs:2: crate::mid::Part is of src/mid/, which stands below src/low.rs"]);
        assert!(circles.is_empty());
        let (order, _) = found(&[mid, part, high]);
        assert!(order.is_empty());
        let (order, _) = found(&[("src/other.rs", "use crate::mid::Part;"), mid, part]);
        assert_eq!(order, ["src/other.rs is in no row of the table"]);
    }

    #[test]
    fn a_circle_is_a_fault() {
        let lending = [
            ("src/mid/mod.rs", "mod part; use part::Part; pub const SIZE: usize = 1; fn f(_: Part) {}"),
            ("src/mid/part.rs", "use super::SIZE; pub struct Part([u8; SIZE]);"),
        ];
        let (order, circles) = found(&lending);
        assert!(order.is_empty());
        assert_eq!(circles.len(), 1);
        assert!(circles[0].contains("src/mid/part.rs:1: super::SIZE, of src/mid/mod.rs"), "{circles:?}");
        // A name that is only passed on makes no circle, nor does one that only tests use, nor a path through a parent.
        let passing = [
            ("src/mid/mod.rs", "mod part; mod size; pub use part::Part; pub use size::*;"),
            ("src/mid/part.rs", "use super::SIZE; pub struct Part([u8; SIZE]);"),
            (
                "src/mid/size.rs",
                "pub const SIZE: usize = 1; #[cfg(test)] mod tests { use super::super::Part; }",
            ),
        ];
        let (_, circles) = found(&passing);
        assert!(circles.is_empty(), "{circles:?}");
    }

    #[test]
    fn written_out_paths_and_groups_are_imports() {
        let files = [
            ("src/low.rs", "use crate::{mid::{self, A as B}, low::C}; pub struct C;"),
            ("src/mid/mod.rs", "pub struct A; fn f() -> crate::low::C { super::low::C }"),
        ];
        let (_, circles) = found(&files);
        assert_eq!(circles.len(), 1, "{circles:?}");
        assert!(circles[0].contains("crate::low::C, of src/low.rs"), "{circles:?}");
    }
}
