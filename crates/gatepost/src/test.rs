//! `gatepost test`: an operator's tests of a policy.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use gatepost_config::{Log, LogFormat};
use gatepost_policy::run_tests;

use crate::logging;

/// Runs every file and prints a report. The exit status is 0 where everything passed.
pub(crate) fn run(files: &[PathBuf], out: &mut impl Write) -> Result<ExitCode> {
    let _last_lines = logging::init(&Log {
        format: LogFormat::Text,
        level: "error".to_owned(),
    })?;
    let (mut passed, mut failed) = (0, 0);
    for file in test_files(files)? {
        writeln!(out, "{}", file.display())?;
        let cases = match run_tests(&file) {
            Ok(cases) => cases,
            Err(fault) => {
                failed += 1;
                writeln!(out, "  FAIL  the file does not load\n        {fault}")?;
                continue;
            }
        };
        for case in cases {
            match case.result {
                Ok(()) => {
                    passed += 1;
                    let took = case.took.as_secs_f64() * 1e3;
                    writeln!(out, "  ok    {} ({took:.1} ms)", case.name)?;
                }
                Err(reason) => {
                    failed += 1;
                    writeln!(
                        out,
                        "  FAIL  {}\n        {}",
                        case.name,
                        reason.replace('\n', "\n        ")
                    )?;
                }
            }
        }
    }
    writeln!(out, "{passed} passed, {failed} failed")?;
    if passed + failed == 0 {
        bail!("no test was run");
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Files as they are named; of folders, the tests in them.
fn test_files(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in named {
        if path.is_dir() {
            files.extend(tests_in(path)?);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

fn tests_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let cannot = || format!("cannot read the folder {}", folder.display());
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        if path.to_string_lossy().ends_with("_test.lua") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
