//! Answers that are the same, and answers that only look the same.

use proptest::prelude::*;

use super::*;

fn correct(predicted: &str, gold: &str) -> bool {
    MathVerifier.is_correct(predicted, gold)
}

#[track_caller]
fn all(pairs: &[(&str, &str)], equal: bool) {
    for (a, b) in pairs {
        assert_eq!(correct(a, b), equal, "{a:?} and {b:?}: {:?}\n{:?}", read(a), read(b));
        assert_eq!(correct(b, a), equal, "{b:?} and {a:?}: {:?}\n{:?}", read(b), read(a));
    }
}

#[test]
fn equal_numbers() {
    all(
        &[
            (r"\frac{1}{2}", r"\frac12"),
            (r"\dfrac{1}{2}", r"\tfrac 1 2"),
            (r"\frac{1}{2}", "1/2"),
            (r"\frac{1}{2}", "0.5"),
            (".5", r"\frac{1}2"),
            ("0.50", ".5."),
            (r"\frac{2}{4}", "1/2"),
            ("4/2", "2"),
            ("3/4/2", r"\frac{3}{8}"),
            (r"-\frac{1}{2}", r"\frac{-1}{2}"),
            (r"-\frac{1}{2}", r"\frac{1}{-2}"),
            (r"-\frac{-1}{2}", "0.5"),
            ("1/-2", "-0.5"),
            ("−3", "-3"),
            (r"\frac{\frac{1}{2}}{3}", "1/6"),
            (r"\frac{1,000}{3}", r"\frac{1000}{3}"),
            (r"2\frac{1}{2}", "2.5"),
            (r"2\,\frac12", "5/2"),
            ("2 1/2", r"\frac{5}{2}"),
            (r"-2\frac{1}{2}", "-2.5"),
            (r"1{,}234", "1234"),
            (r"1,\!234,\!567", "1,234,567"),
            (r"10\,080", "10080"),
            ("1,234.50", r"\frac{2469}{2}"),
            ("(5)", "5"),
            ("((5))", "5"),
            ("+5", "5"),
            ("5.", "5"),
            (r"\boxed{5}", "5"),
            (r"$5$", "5"),
            (r"\(5\)", "5"),
            (r"\boxed{\frac{1}{2}}.", "0.5"),
            ("24691357802469135780246913578024691357/2", "12345678901234567890123456789012345678.5"),
            // Beyond i128 the digits decide.
            (
                r"1,\!000,\!000,\!000,\!000,\!000,\!000,\!000,\!000,\!000,\!000,\!000,\!000,\!001",
                "1000000000000000000000000000000000000001",
            ),
        ],
        true,
    );
}

#[test]
fn different_numbers() {
    all(
        &[
            ("0.333", r"\frac{1}{3}"),
            ("0.3333333333333333", "1/3"),
            (r"\frac{1}{2}", r"\frac{2}{1}"),
            (r"\frac12", "12"),
            (r"\frac{1}{2}", r"-\frac{1}{2}"),
            ("1 1/2", "11/2"),
            (r"1\frac{1}{2}", r"\frac{11}{2}"),
            (r"2\frac{1}{2}", "1"),
            (r"2\cdot\frac{1}{2}", "2.5"),
            (r"2\frac{3}{2}", "3.5"),
            (r"\frac{1}{0}", r"\frac{2}{0}"),
            ("1/0", "0"),
            ("1 2", "12"),
            ("1 234", "1234"),
            (r"1\,23", "123"),
            ("2*3", "23"),
            (r"2\cdot 3", "23"),
            ("2+3", "23"),
            (r"\sqrt{4}", "-2"),
            (r"\sqrt{2}", "1.4142135623730951"),
            (r"0.\overline{3}", "0.3"),
            (r"0.\overline{3}", "0.33"),
            ("10", "100"),
            ("1.5", "15"),
            ("1,2", "12"),
            (r"3{,}14", "314"),
            ("101_2", "101_3"),
            ("101_{12}", "101_{2}"),
            (r"3\text{ million}", "3"),
            ("5!", "5"),
            ("85070591730234615865843651857942052863.5", "85070591730234615865843651857942052863"),
            ("1000000000000000000000000000000000000001/2", "1000000000000000000000000000000000000002/2"),
        ],
        false,
    );
}

#[test]
fn equal_formulas() {
    all(
        &[
            (r"\frac{\sqrt{3}}{2}", r"\sqrt{3}/2"),
            (r"\frac{\sqrt3}{2}", r"\frac{\sqrt{3}}{2}"),
            (r"-\frac{\sqrt{3}}{2}", r"\frac{-\sqrt{3}}{2}"),
            (r"\sqrt{2}", "√2"),
            (r"\sqrt 2", "sqrt(2)"),
            (r"\sqrt{13}", "√13"),
            (r"0.1\overline{6}", r"0.1\overline 6"),
            (r"\sqrt[3]{2}", r"\sqrt[3] 2"),
            (r"\sqrt{0.5}", r"\sqrt{\frac{1}{2}}"),
            (r"3\cdot\sqrt{2}", r"3\sqrt{2}"),
            (r"2\pi", "2π"),
            (r"2\pi", "2 pi"),
            (r"\frac{\pi}{2}", r"\pi/2"),
            (r"\frac{1}{2}x", "0.5x"),
            (r"\frac{x+1}{2}", "(x+1)/2"),
            (r"\frac{2x}{3}", "2x/3"),
            (r"\frac{2x}{3}", "(2x)/3"),
            (r"-\frac{3x}{2}", r"\frac{-3x}{2}"),
            (r"\frac{a}{b^2}", "a/b^2"),
            (r"\frac{1}{2^3}", "1/2^3"),
            (r"x^{10}", "x^10"),
            (r"x^{-1}", "x^-1"),
            (r"x^{1/2}", r"x^{\frac12}"),
            (r"x^{(1/2)}", "x^0.5"),
            ("x_1", "x_{1}"),
            ("x ^ 2 + 1", "x^2+1"),
            (r"\left(x+1\right)^2", "(x+1)^2"),
            (r"\infty", "∞"),
            (r"-\infty", "-infinity"),
            (r"x \leq 3", r"x \le 3"),
            (r"x\ge\frac12", "x≥0.5"),
            ("x = 5", "5"),
            ("x=5", "x = 5"),
            (r"\theta = 30^\circ", "30"),
            (r"f(x) = x^2", "x^2"),
            ("x_1 = 2", "2"),
            (r"\text{Area} = 5", "5"),
            ("y = 2x + 3", "2x+3"),
            (r"x \in [1,2]", "[1,2]"),
            (r"\text{Evelyn}", "Evelyn"),
            (r"\mbox{no solution}", "no solution"),
            (r"\textbf{(C)}", "C"),
            (r"\text{(C)}", "(C)"),
            (r"\mathbf{i}", "i"),
            (r"\sin\mathbf{x}", "sin x"),
            (r"\emptyset", r"\varnothing"),
            (
                r"\begin{pmatrix} 1 & -0.5 \\ 3 & 4 \end{pmatrix}",
                r"\begin{pmatrix}1&-\frac12\\3&4\end{pmatrix}",
            ),
            (r"\boxed{\boxed{x}", "x"),
        ],
        true,
    );
}

#[test]
fn different_formulas() {
    all(
        &[
            ("5x", "5"),
            ("5m", "5"),
            (r"3\mathrm{i}", "3"),
            (r"3\text{i}", "3"),
            (r"3\mathbf{i}", "3"),
            (r"2\pi", "2"),
            (r"\pi", "3.14159"),
            (r"\frac{\sqrt{3}}{2}", r"\frac{\sqrt{2}}{3}"),
            (r"\frac{\sqrt{3}}{2}", r"\sqrt{\frac{3}{2}}"),
            (r"\sqrt{32}", r"\sqrt32"),
            (r"\sqrt[3]{2}", r"3\sqrt{2}"),
            (r"\frac{1}{2x}", r"\frac{1}{2}x"),
            ("1/(2x)", "1/2x"),
            ("x^2", "x2"),
            ("x^2", "x_2"),
            ("x^{12}", "x^{1}2"),
            ("-2^2", "(-2)^2"),
            (r"\frac{a}{b}^2", r"\frac{a}{b^2}"),
            ("x+1", "x-1"),
            ("1-x", "x-1"),
            (r"1 \pm \sqrt{2}", r"1 + \sqrt{2}"),
            ("x<3", "x>3"),
            (r"x \le 3", "x<3"),
            (r"\infty", r"-\infty"),
            ("x = 5", "y = 5"),
            ("x = 5", "x = 6"),
            ("x = 5", "x"),
            ("x+y=5", "5"),
            ("a=b=5", "5"),
            (r"x\in[1,2]", r"x\in[1,2)"),
            ("Evelyn", "Evelyne"),
            (r"\text{even}", r"\text{odd}"),
            ("C", "c"),
            ("(A)", "(B)"),
            (r"\overline{AB}C", r"\overline{A}BC"),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}"),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
        ],
        false,
    );
}

#[test]
fn equal_as_formulas() {
    all(
        &[
            (r"\sqrt{4}", "2"),
            ("2+3", "5"),
            (r"2\cdot 3", "6"),
            ("2^{10}", "1024"),
            (r"2\times 10^3", "2000"),
            (r"2\sqrt{3}", r"\sqrt{12}"),
            (r"\sqrt6\sqrt{10}", r"2\sqrt{15}"),
            (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}"),
            (r"-\frac{\sqrt{3}}{2}", r"-\sqrt{\frac{3}{4}}"),
            (r"\frac{1}{1+\sqrt2}", r"\sqrt2-1"),
            (r"\frac{3+\sqrt{5}}{2}", r"\frac{\sqrt5}{2}+1.5"),
            (r"\sqrt[3]{54}", r"3\sqrt[3]{2}"),
            (r"\sqrt[3]{8}", "2"),
            ("8^{1/3}", "2"),
            (r"2^{1/2}", r"\sqrt2"),
            (r"30\pi + 9\sqrt{3}", r"9\sqrt3+30\pi"),
            (r"\frac{2 \pi}{3}", r"\frac{2}{3}\pi"),
            (r"\frac{\pi^2}{4}", r"(\frac{\pi}{2})^2"),
            ("x^2+2x+1", "(x+1)^2"),
            (r"\frac{x^2-1}{x-1}", "x+1"),
            ("x(x+1)", "x^2+x"),
            ("p - q", "-q+p"),
            ("xy", "yx"),
            ("1+2i", "2i+1"),
            (r"\frac{a}{b}", "ab^{-1}"),
            (r"\sqrt{x^2+1}", r"\sqrt{1+x^2}"),
            ("x_1+x_2", "x_2+x_1"),
            ("y=2x+3", "y = 3+2x"),
            ("4x-5y=-50", "5y-4x=50"),
            ("4x-5y=-50", "4x=5y-50"),
            (r"3\sqrt{2}\text{ cm}", r"\sqrt{18}"),
            (r"(1, 4\sqrt3)", r"(1,\sqrt{48})"),
            (r"[-\sqrt{9},3)", "[-3,3)"),
            (r"1 \pm \sqrt{2}", r"1+\sqrt{2}, 1-\sqrt{2}"),
            (r"\pm 2", "-2,2"),
            (r"x=\pm 2", "x = -2 or x = 2"),
            (r"(-\infty,-8)\cup (8,\infty)", r"(8,\infty)\cup(-\infty,-\sqrt{64})"),
            (r"\{1,2,3\}", r"\{3,1,\sqrt4\}"),
            (
                r"\begin{pmatrix} 16/49 \\ \sqrt{12} \end{pmatrix}",
                r"\begin{bmatrix} \frac{16}{49} \\ 2\sqrt3 \\ \end{bmatrix}",
            ),
            (
                r"\begin{pmatrix} -1/5 & 1/2 \\ -2 & 0 \end{pmatrix}",
                r"\begin{pmatrix}-0.2&.5\\-2&0\end{pmatrix}",
            ),
        ],
        true,
    );
}

#[test]
fn bases_are_left_out_or_the_same() {
    all(
        &[
            ("204_5", "204_{5}"),
            ("204_5", "204"),
            (r"5,\!000_7", "5000_{7}"),
            ("-12_5", "-12"),
            ("x=12_5", "12"),
            ("1_2, 10_2", "1, 10"),
        ],
        true,
    );
    all(
        &[
            ("204_5", "204_6"),
            ("204_5", "54"),
            ("204_5", "205"),
            ("1.5_4", "1.5"),
            ("204_x", "204"),
            ("204_1", "204"),
        ],
        false,
    );
}

#[test]
fn logarithms_factorials_and_binomials() {
    all(
        &[
            (r"\log_2 8", "3"),
            (r"\log_{2}(8)", "3"),
            (r"\log_4 8", r"\frac32"),
            (r"\log_{\frac12} 8", "-3"),
            (r"\log_2\sqrt{8}", "1.5"),
            (r"\log_{\sqrt 3}9", "4"),
            (r"\log_2\frac{1}{8}", "-3"),
            (r"\log 100", "2"),
            (r"1+\log_2 8", "4"),
            (r"2\log_2 8", "6"),
            (r"x\log_2 8", "3x"),
            (r"\log_2 8^2", "6"),
            (r"\log_2 3", r"\frac{\ln 3}{\ln 2}"),
            (r"\log_2 6", r"1+\log_2 3"),
            (r"\ln e", "1"),
            (r"\ln e^2", "2"),
            (r"\ln(2e)", r"1+\ln 2"),
            (r"\ln 1", "0"),
            (r"\ln 4", r"2\ln 2"),
            (r"-\ln 2", r"\ln\frac12"),
            (r"\frac{1}{2}\ln 3", r"\frac{\ln 3}{2}"),
            ("5!", "120"),
            ("0!", "1"),
            ("-5!", "-120"),
            ("5!+1", "121"),
            ("3-2!", "1"),
            (r"2\cdot 3!", "12"),
            ("3!2!", "12"),
            ("(3!)!", "720"),
            (r"\frac{5!}{2!3!}", "10"),
            ("5!/3!", "20"),
            ("1/2!", "0.5"),
            ("20!", "2432902008176640000"),
            (r"2^{3!}", "64"),
            (r"\binom{5}{2}", "10"),
            (r"\dbinom{5}{2}+1", "11"),
            (r"\binom{7}{0}", "1"),
        ],
        true,
    );
    all(
        &[
            (r"\log_2 8", "4"),
            (r"\log 2", r"\ln 2"),
            (r"\log_5 3", r"\log_5 2"),
            (r"\log_2 x", r"\log_2 y"),
            (r"\log_2 8x", "3x"),
            (r"\log_2 8/3", "1"),
            (r"\ln 3/2", r"\ln\frac23"),
            (r"\log_2 (8)^2", "6"),
            (r"\log_2 8\cdot 2", "6"),
            (r"\ln 2e", r"1+\ln 2"),
            (r"\log_1 2", r"\log_1 3"),
            (r"\log 0", "0"),
            (r"\ln(-1)", r"\ln 1"),
            (r"\ln(x+1)", r"\ln x"),
            ("5!", "5"),
            ("5!!", "15"),
            ("3!^2", "36"),
            ("x!", "x"),
            ("3x!", "6"),
            ("(-1)!", "1"),
            (r"\frac12!", r"\frac12"),
            ("34!", "35!"),
            (r"\binom{5}{2}", r"\binom{5}{1}"),
            (r"\binom{2}{5}", "0"),
            (r"\binom{5}{2}", r"\frac52"),
        ],
        false,
    );
}

#[test]
fn inequalities_and_their_intervals() {
    all(
        &[
            ("x>3", "3<x"),
            ("x>3", r"(3,\infty)"),
            ("k>3", r"(3,\infty)"),
            (r"x\ge 3", r"[3,+\infty)"),
            (r"x\le\sqrt{9}", r"(-\infty,3]"),
            ("x>3", r"x\in(3,\infty)"),
            (r"2\le x<5", "[2,5)"),
            (r"5>x\ge 2", "[2,5)"),
            (r"-2<x<-1", "(-2,-1)"),
            (r"0\le\theta<2\pi", r"[0,2\pi)"),
            ("2<f(x)<5", "(2,5)"),
            (r"0<x\le\frac{1}{2}", "(0,0.5]"),
            ("x-3>0", "x>3"),
            ("-x<3", "x>-3"),
            ("x+y>3", "3<y+x"),
            (r"x>5\text{ cm}", "x>5"),
        ],
        true,
    );
    all(
        &[
            ("x>3", "x>2"),
            ("x>3", r"x\ge 3"),
            ("x>3", "y>3"),
            ("x>3", "3"),
            ("x>3", r"(-\infty,3)"),
            ("x>3", r"[3,\infty)"),
            ("x>3", r"(3,\infty]"),
            ("x>3", r"y\in(3,\infty)"),
            ("x>3", "(3,5)"),
            (r"2\le x<5", "[2,5]"),
            ("2<x<5", "2<y<5"),
            ("2<x+1<5", "(2,5)"),
            ("x<y", r"(-\infty,y)"),
            ("2<x>5", "(2,5)"),
            ("x^2>4", r"(4,\infty)"),
            ("x<", r"(-\infty,)"),
            ("(2,5)", r"\{2,5\}"),
        ],
        false,
    );
}

#[test]
fn different_as_formulas() {
    all(
        &[
            ("(x+1)^2", "x^2+1"),
            (r"\sqrt{2}+\sqrt{3}", r"\sqrt{5}"),
            (r"\sqrt{x^2}", "x"),
            (r"\sqrt{-4}", "2"),
            (r"\sqrt[3]{2}", r"\sqrt2"),
            ("-2^2", "4"),
            (r"\frac{-1}{2}^2", "-0.25"),
            ("2^{3^2}", "64"),
            ("x^{2}y", "xy^{2}"),
            (r"\sin x\cos y", r"\sin y\cos x"),
            ("f(x)g(y)", "f(y)g(x)"),
            ("ACF", "FCA"),
            ("AB", "BA"),
            (r"1\text{Navin}", "Navin"),
            (r"\text{evil}", r"\text{live}"),
            (r"\text{no}", r"\text{on}x"),
            (r"\frac{1}{x-x}", r"\frac{2}{x-x}"),
            ("0^0", "1"),
            ("9^{99}", "9^{98}"),
            ("x = 2y", "x = -2y"),
            ("x+y=2", "x-y=2"),
            ("x+y=2", "2x+2y=4"),
            (r"1 \pm \sqrt{2}", r"1+\sqrt{2}"),
            (r"\pm 2", "2,3"),
            (r"\pm 2", "2,2"),
            (r"(-\infty,-8)\cup (8,\infty)", r"(-\infty,-8]\cup (8,\infty)"),
            (r"\{1,2\}", r"\{1,1\}"),
            (r"\{1,2\}", "2,1"),
            (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{vmatrix}1\\2\end{vmatrix}"),
            (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}2&1\end{pmatrix}"),
            ("101_2", "5"),
        ],
        false,
    );
}

#[test]
fn a_conjunction_is_one_separator() {
    all(
        &[
            ("7,-2,-5", r"7, -2, \text{ and } -5"),
            ("1,2", r"1 \text{or } 2"),
            ("1,2", r"1\mbox{ and }2"),
            ("1, 2, 3", r"1, 2, \mathrm{and}\ 3"),
            ("1, 2, 3", r"1, 2, {\text{or}} 3"),
            (r"x=1,\text{ or }x=2", "1,2"),
        ],
        true,
    );
    all(&[("1,2", r"1\text{ and and }2"), ("1,,2", "1,2"), ("1", r"1\text{ and}")], false);
}

#[test]
fn equal_with_units() {
    all(
        &[
            ("5 cm", "5"),
            ("5cm", r"5\text{ cm}"),
            (r"12\text{ meters}", "12"),
            (r"12\text{ m}", "12 metres"),
            (r"12\,\mathrm{cm}^2", "12"),
            (r"12\text{ cm}^2", "12 square centimeters"),
            (r"25\pi\text{ square feet}", r"25\pi"),
            (r"60\text{ km/h}", "60 kilometers per hour"),
            (r"8\mbox{ inches}", "8"),
            (r"30\text{ apples}", "30"),
            (r"30\text{ apples}", r"30\text{ apple}"),
            ("50\\%", "50"),
            ("50%", "50 percent"),
            (r"\$5", "5"),
            (r"\$5", "5 dollars"),
            (r"-\$5", "-5"),
            (r"\$1{,}250.50", "1250.5"),
            (r"90^\circ", "90"),
            (r"90^{\circ}", "90°"),
            (r"90\text{ degrees}", r"90\degree"),
            (r"\frac{1}{2}\text{ hour}", "0.5"),
            (r"x = 5\text{ cm}", "5"),
            ("(5 cm)", "5"),
            (r"3\text{ million dollars}", r"3\text{ million}"),
            (r"\$3\text{ million}", "3 million dollars"),
        ],
        true,
    );
}

#[test]
fn different_with_units() {
    all(
        &[
            ("5 cm", "5 m"),
            ("5 cm", "6 cm"),
            (r"5\text{ cm}^2", r"5\text{ cm}^3"),
            (r"5\text{ cm}^2", r"5\text{ cm}"),
            (r"5^2\text{ cm}", r"5\text{ cm}"),
            (r"30\text{ apples}", r"30\text{ pears}"),
            (r"\$5", "5 cents"),
            (r"\$5", "50"),
            ("50%", "0.5"),
            ("50%", "50°"),
            (r"3\text{ million}", r"3\text{ billion}"),
            (r"10:30\text{ a.m.}", r"10:30\text{ p.m.}"),
            ("cm", "5 cm"),
            (r"\text{cm}", r"\text{m}"),
        ],
        false,
    );
}

#[test]
fn equal_lists() {
    all(
        &[
            ("1, 2", "1,2"),
            (r"(1,\frac12)", "( 1 , 0.5 )"),
            (r"\left(1, 2\right)", "(1,2)"),
            ("(1,234)", "(1, 234)"),
            (r"(1{,}234, 5)", "(1234,5)"),
            (r"[0,\infty)", r"\left[ 0, \infty \right)"),
            (r"(-\infty,0)\cup(1,2]", r"(-\infty, 0) \cup (1, 2]"),
            (r"\{1,2,3\}", r"\left\{1, 2, 3\right\}"),
            (r"\lbrace 1 \rbrace", r"\{1.0\}"),
            ("1, 2, and 3", "1,2,3"),
            (r"1\text{ and }2", "1,2"),
            ("x = 1 or x = 2", "1,2"),
            ("x=1, y=2", "1, 2"),
            ("(x, y) = (1, 2)", "(x,y)=(1,2)"),
            (r"3\text{ cm}, 4\text{ cm}", "3,4"),
            (r"\langle 1, 2\rangle", r"\langle 1,2 \rangle"),
            (r"((1,2),(3,4))", "( (1,2), (3,4) )"),
            ("1,2,345", "1, 2, 345"),
            ("1,2,345,678", "1, 2, 345, 678"),
            ("1, 2,345", "1, 2345"),
        ],
        true,
    );
}

#[test]
fn different_lists() {
    all(
        &[
            ("1,2", "2,1"),
            ("1,2", "1,2,3"),
            ("1,2", "1"),
            ("1,2", "(1,2)"),
            ("(1,2)", "[1,2]"),
            ("[1,2]", "[1,2)"),
            ("(1,2)", r"\{1,2\}"),
            (r"\{5\}", "5"),
            ("[5]", "5"),
            ("(1,2)", "(1,3)"),
            ("(1,2)", "(12)"),
            ("(1,234)", "1234"),
            ("1,2", "1.2"),
            ("1,", "1"),
            (",", ""),
            ("x=1,y=2", "y=1,x=2"),
            ("((1,2),3)", "(1,(2,3))"),
        ],
        false,
    );
}

#[test]
fn nothing_is_no_answer() {
    all(
        &[("", "0"), ("$$", r"\text{}"), ("{}", r"\left.\right."), (r"\$", "+"), ("", "{}"), (r"\,", "~")],
        false,
    );
}

#[test]
fn depth_and_length_are_bounded() {
    for (open, close) in [
        ("(", ")"),
        ("{", "}"),
        (r"\frac{", "}{2}"),
        (r"\frac", "1"),
        (r"\sqrt", ""),
        (r"\text{", "}"),
        ("x^{", "}"),
        ("x^", ""),
        ("[", ""),
        ("", ")"),
        (r"\{", ""),
        ("x/", ""),
        ("1/", ""),
        ("1,", ""),
        ("1 1/", ""),
        ("-", ""),
        (r"\a{", "}"),
    ] {
        for depth in [10, 40, 400, 100_000] {
            let text = format!("{}x{}", open.repeat(depth), close.repeat(depth));
            assert!(correct(&text, &text));
            assert!(!correct(&text, "7"));
        }
    }
    let nested = |depth: usize| format!("{}5{}", "(".repeat(depth), ")".repeat(depth));
    assert!(correct(&nested(20), "5"));
    assert!(!correct(&nested(200), "5"));
}

/// Pieces of LaTeX, well joined or not.
fn latex() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "0", "1", "12", "1,234", ".5", "2.50", "-", "+", "/", "=", ",", "(", ")", "[", "]", "{", "}", r"\{",
        r"\}", r"\frac", r"\frac12", r"\sqrt", r"\sqrt[", "^", "_", r"^\circ", "x", "yz", " ", r"\,", r"\!",
        "{,}", r"\text{", " cm", " and ", r"\pi", r"\infty", r"\cdot", r"\$", "$", "%", r"\left", r"\right.",
        ".", r"\boxed{", r"\begin{", r"\\", "&", r"\", "é", "∞", "!", "sqrt",
    ]);
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn polynomials_are_equal_where_all_their_values_are(a in prop::collection::vec(-9i64..9, 3), b in prop::collection::vec(-9i64..9, 3)) {
        let spelled = |c: &[i64]| format!("({})x^2+({})x+({})", c[0], c[1], c[2]);
        prop_assert_eq!(correct(&spelled(&a), &spelled(&b)), a == b);
        // By Horner's scheme.
        let horner = format!("x\\left(({})x+({})\\right)+({})", a[0], a[1], a[2]);
        prop_assert_eq!(correct(&horner, &spelled(&b)), a == b);
    }

    #[test]
    fn roots_are_equal_where_their_squares_are(a in 1i64..40, n in 1i64..40, b in 1i64..40, m in 1i64..40) {
        let equal = a * a * n == b * b * m;
        prop_assert_eq!(correct(&format!(r"{a}\sqrt{{{n}}}"), &format!(r"{b}\sqrt{{{m}}}")), equal);
        prop_assert_eq!(correct(&format!(r"\frac{{{a}}}{{\sqrt{{{n}}}}}"), &format!(r"\frac{{{a}\sqrt{{{n}}}}}{{{n}}}")), true);
    }

    #[test]
    fn no_text_panics(a in any::<String>(), b in any::<String>()) {
        prop_assert!(correct(&a, &a));
        prop_assert_eq!(correct(&a, &b), correct(&b, &a));
    }

    #[test]
    fn no_latex_panics(a in latex(), b in latex()) {
        prop_assert_eq!(correct(&a, &b), correct(&b, &a));
        // An answer equals itself, so any difference found is one between two answers.
        if let Some(read) = read(&a) {
            prop_assert!(equality::same_elements(&read, &read));
        }
    }

    #[test]
    fn spaces_at_the_ends_and_dollars_say_nothing(a in latex()) {
        if read(&a).is_some_and(|r| !r.is_empty() && r.iter().all(|e| !e.value.is_empty())) {
            let padded = format!(" ${a} $");
            prop_assert!(correct(&padded, &a) || a.ends_with('\\'));
        }
    }

    #[test]
    fn fractions_are_equal_as_numbers_are(a in -60i64..60, b in 1i64..60, c in -60i64..60, d in 1i64..60) {
        let equal = a * d == b * c;
        prop_assert_eq!(correct(&format!(r"\frac{{{a}}}{{{b}}}"), &format!("{c}/{d}")), equal);
        let with_unit = format!(r"\dfrac{{{a}}}{{{b}}}\text{{ cm}}");
        prop_assert_eq!(correct(&with_unit, &format!("x = {c} / {d}")), equal);
    }

    #[test]
    fn decimals_are_fractions(whole in 0u32..1000, cents in 0u32..100, n in 0u32..100_000) {
        let fraction = format!(r"\frac{{{n}}}{{100}}");
        let equal = n == whole * 100 + cents;
        prop_assert_eq!(correct(&format!("{whole}.{cents:02}"), &fraction), equal);
        let decimal = format!("{}.{:02}", n / 100, n % 100);
        prop_assert!(correct(&decimal, &fraction));
    }

    #[test]
    fn mixed_numbers_are_sums(whole in 1i64..100, a in 1i64..50, more in 1i64..50) {
        let b = a + more;
        let sum = format!("{}/{b}", whole * b + a);
        let typeset = format!(r"{whole}\frac{{{a}}}{{{b}}}");
        prop_assert!(correct(&typeset, &sum));
        let typed = format!("{whole} {a}/{b}");
        prop_assert!(correct(&typed, &sum));
        let run_together = format!("{whole}{a}/{b}");
        let numerator: i64 = format!("{whole}{a}").parse().unwrap();
        prop_assert_eq!(correct(&run_together, &sum), numerator == whole * b + a);
    }
}
