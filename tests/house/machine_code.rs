//! The machine code of the kernels keeps some rules. `docs/kernel-report.tsv` is what is known of it without nvcc;
//! `scripts/kernel-report` makes that table, and says in CI whether it is that of the kernels.

use crate::repository;

const TABLE: &str = "docs/kernel-report.tsv";

/// Columns that have to be empty, and why.
const EMPTY: [(&str, &str); 4] = [
    ("spilled", "spills registers: give it fewer, or fewer threads a block"),
    ("generic", "asks at an access which memory the address is in: make it a `Global` of cuda/common.cuh"),
    ("spin", "has an atomic on shared memory that is a loop: use one of 32 bits, or a reduction"),
    ("local", "keeps an array in a thread's own memory: index it with constants"),
];

/// A line for each rule that a row of the table breaks.
fn faults(table: &str) -> Vec<String> {
    let mut lines = table.lines().filter(|line| !line.starts_with('#')).map(|line| line.split('\t'));
    let columns: Vec<&str> = lines.next().unwrap().collect();
    let place = |name: &str| columns.iter().position(|column| *column == name).unwrap();
    let mut faults = Vec::new();
    for line in lines {
        let row: Vec<&str> = line.collect();
        let at = |name: &str| row[place(name)];
        let function = if at("function") == "-" { String::new() } else { format!(", {}", at("function")) };
        for (column, why) in EMPTY {
            if !["-", "0"].contains(&at(column)) {
                let (kernel, arch) = (at("kernel"), at("arch"));
                faults.push(format!("{kernel}{function} ({arch}) {why} ({column} {})", at(column)));
            }
        }
    }
    faults
}

#[test]
fn no_kernel_spills_spins_or_asks_where_an_address_points() {
    let table = repository::text(TABLE).unwrap();
    for arch in ["sm_80", "sm_90a"] {
        let rows = table.lines().filter(|line| line.contains(&format!("\t{arch}\t"))).count();
        assert!(rows > 100, "{TABLE} has {rows} rows for {arch}");
    }
    repository::report(&faults(&table));
}

#[test]
fn a_rule_that_is_broken_names_the_kernel() {
    let head = "# head\nkernel\tfunction\tarch\tspilled\tgeneric\tspin\tlocal\n";
    let of = |rows: &str| faults(&format!("{head}{rows}"));
    assert_eq!(of("add\t-\tsm_80\t0\t-\t-\t-\ndecode\tdot\tsm_80\t-\t-\t-\t-\n"), [""; 0]);
    for (row, named) in [
        ("add\t-\tsm_80\t8\t-\t-\t-\n", "add (sm_80) spills"),
        ("decode\tdot\tsm_90a\t-\t64:2 ST:1\t-\t-\n", "decode, dot (sm_90a) asks"),
        ("choose\t-\tsm_80\t0\t-\t8\t-\n", "choose (sm_80) has an atomic"),
        ("decode\tdot\tsm_80\t-\t-\t-\t48\n", "decode, dot (sm_80) keeps"),
    ] {
        let faults = of(row);
        assert!(faults.len() == 1 && faults[0].starts_with(named), "{row}: {faults:?}");
    }
}
