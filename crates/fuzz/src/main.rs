//! The fuzzer of the target that `FUZZ_TARGET` names, as `make fuzz` builds it. Built in any other way it tries each of the files that
//! it is given once (`cargo run -p gatepost-fuzz FILE…`), so that a finding can be looked at in a debugger.

#![cfg_attr(fuzzing, no_main)]

use std::env;

use gatepost_fuzz::{TARGETS, Target};

/// The one that is wanted.
fn target() -> Result<&'static Target, String> {
    let name = env::var("FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).ok_or_else(|| {
        let names: Vec<_> = TARGETS.iter().map(|it| it.name).collect();
        format!("FUZZ_TARGET is none of {}", names.join(", "))
    })
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let finding = match target() {
        Ok(target) => (target.run)(data).err().map(|it| it.to_string()),
        Err(fault) => Some(fault),
    };
    if let Some(finding) = finding {
        // libFuzzer writes the bytes to a file then.
        panic!("{finding}");
    }
});

#[cfg(not(fuzzing))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use std::io::Write as _;

    let target = target()?;
    for file in env::args().skip(1) {
        let verdict = (target.run)(&std::fs::read(&file)?)?;
        writeln!(std::io::stdout(), "{file}: {verdict:?}")?;
    }
    Ok(())
}
