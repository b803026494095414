use super::*;

#[test]
fn every_item_once_for_any_count() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads).unwrap();
        pool.install(|| {
            for n in [0, 1, 2, 5, 63, 1000] {
                for grain in [0, 1, 7, 2000] {
                    let mut seen = vec![0u32; n];
                    split_rows(&mut seen, 1, grain, |_, rows| rows.iter_mut().for_each(|s| *s += 1));
                    assert!(seen.iter().all(|&s| s == 1), "threads {threads}, n {n}, grain {grain}");
                }
            }
        });
    }
}

#[test]
fn rows_come_with_their_number_and_the_last_may_be_short() {
    let mut data = vec![0usize; 3 * 100 + 2];
    split_rows(&mut data, 3, 1, |first, rows| {
        for (r, row) in rows.chunks_mut(3).enumerate() {
            row.fill(first + r);
        }
    });
    assert!(data.iter().enumerate().all(|(i, &row)| row == i / 3));
    split_rows(&mut data, 0, 1, |_, _| panic!("no rows"));
}

#[test]
fn many_short_loops_in_a_row() {
    let pool = Pool::new(4).unwrap();
    pool.install(|| {
        let mut data = vec![0u64; 64];
        for _ in 0..20_000 {
            split_rows(&mut data, 1, 1, |_, rows| rows.iter_mut().for_each(|x| *x += 1));
        }
        assert!(data.iter().all(|&x| x == 20_000));
    });
}

#[test]
fn sleeping_threads_wake() {
    let pool = Pool::new(2).unwrap();
    pool.install(|| {
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            let both = std::sync::Barrier::new(2);
            for_tasks(2, |_| {
                both.wait();
            });
        }
    });
}

#[test]
fn loops_within_loops_and_on_one_pool_from_two_threads() {
    let pool = Pool::new(3).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                pool.install(|| {
                    for _ in 0..500 {
                        let sum = AtomicUsize::new(0);
                        for_tasks(5, |i| {
                            for_tasks(4, |j| {
                                sum.fetch_add(i * 4 + j, Ordering::Relaxed);
                            })
                        });
                        assert_eq!(sum.into_inner(), 190);
                    }
                });
            });
        }
    });
}

#[test]
fn a_panic_comes_through_and_the_pool_lives_on() {
    let pool = Pool::new(2).unwrap();
    pool.install(|| {
        for bad in 0..8 {
            let result = catch_unwind(|| for_tasks(8, |i| assert_ne!(i, bad)));
            assert!(result.is_err());
            assert!(!IN_TASK.get());
        }
        for_tasks(8, |_| ());
    });
}

#[test]
fn install_nests_and_ends() {
    let (one, two) = (Pool::new(1).unwrap(), Pool::new(2).unwrap());
    two.install(|| {
        assert_eq!(threads(), 2);
        one.install(|| assert_eq!(threads(), 1));
        assert_eq!(threads(), 2);
        for_tasks(2, |_| assert_eq!(threads(), 1));
    });
}

#[test]
fn a_sum_has_the_same_bits_for_every_thread_count() {
    let values: Vec<f64> = (0..10_000).map(|i| f64::from(i).sin() * 1e6).collect();
    let sum = |threads| {
        Pool::new(threads).unwrap().install(|| sum_blocks(values.len(), 64, |r| values[r].iter().sum()))
    };
    assert_eq!(sum(1).to_bits(), sum(2).to_bits());
    assert_eq!(sum(1).to_bits(), sum(5).to_bits());
}
