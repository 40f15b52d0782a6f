use std::io::{BufRead, Write};
fn main() {
    let s = malachor::phi::Scrubber::new([7; 32]);
    let lines: Vec<String> = std::io::stdin().lock().lines().map(|l| l.unwrap()).collect();
    let n: usize = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    if n > 0 {
        let bytes: usize = lines.iter().map(|l| l.len() + 1).sum();
        s.text(&lines[0]);
        let t = std::time::Instant::now();
        let mut o = 0;
        for _ in 0..n {
            for l in &lines {
                o += s.text(l).len();
            }
        }
        let e = t.elapsed().as_secs_f64();
        eprintln!("{:.1} MB/s {o}", (bytes * n) as f64 / e / 1e6);
        return;
    }
    let mut out = std::io::stdout().lock();
    for l in lines {
        writeln!(out, "{}", s.text(&l)).unwrap();
    }
}
