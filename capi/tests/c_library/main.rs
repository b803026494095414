//! The C library as programs in C and Python have it: they are compiled and run.

#[cfg(unix)]
mod contract;
mod header;
#[cfg(unix)]
mod programs;
#[cfg(unix)]
mod sanitizers;
#[cfg(unix)]
mod toolchain;
