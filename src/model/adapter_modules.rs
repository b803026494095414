//! Which modules of a model carry an adapter, and at which rank and alpha, where that is more than a list of projections.
//!
//! PEFT matches the names of modules, `model.layers.3.self_attn.q_proj`, against what `adapter_config.json` says: names and
//! ends of names, regular expressions, numbers of layers, exceptions, and ranks and alphas of their own. The rules here are
//! those of its `check_target_module_exists` and `get_pattern_key`.

use fancy_regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::lora_target::LoraTarget;
use crate::Result;
use crate::files::json::{Fields, one_line};

/// Steps that a pattern may take on one name: far more than any that people write needs.
const BACKTRACK_LIMIT: usize = 50_000;
/// Layers whose names are tried to find out which projections a rule names at all.
const LAYERS_TRIED: usize = 128;

/// The fields of `adapter_config.json` that are read here, and written back as they were.
const FIELDS: [&str; 7] = [
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
];

/// A regular expression with the text it was made of.
#[derive(Debug, Clone)]
struct Pattern {
    text: String,
    regex: Regex,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Pattern {
    /// `form` with `{}` in it stands for what must match from a name's beginning to its end.
    fn new(fields: &Fields<'_>, field: &str, text: &str, form: &str) -> Result<Self> {
        let whole = form.replace("{}", text);
        let regex = RegexBuilder::new(&whole).backtrack_limit(BACKTRACK_LIMIT).build();
        let regex = regex.map_err(|e| {
            let what = format!("\"{}\" is no pattern: {}", one_line(text), one_line(&e.to_string()));
            fields.error(field, what)
        })?;
        Ok(Pattern { text: text.to_owned(), regex })
    }

    /// Whether it matches; a pattern that gives up on a name does not.
    fn matches(&self, name: &str) -> bool {
        self.regex.is_match(name).unwrap_or(false)
    }

    fn layer_of(&self, name: &str) -> Option<usize> {
        self.regex.captures(name).ok().flatten()?.get(1)?.as_str().parse().ok()
    }
}

/// A set of modules: by names or ends of names, or by a pattern.
#[derive(Debug, Clone, PartialEq)]
enum Names {
    Listed(Vec<String>),
    Pattern(Pattern),
}

impl Names {
    fn read(fields: &Fields<'_>, field: &str) -> Result<Option<Self>> {
        match fields.value(field) {
            None => Ok(None),
            Some(Value::String(text)) => {
                Pattern::new(fields, field, text, r"\A(?:{})\z").map(|p| Some(Names::Pattern(p)))
            }
            Some(_) => {
                let names = fields.opt_list(field)?.unwrap_or_default().iter().map(|name| {
                    let wrong = || fields.error(field, format!("{} is no name", one_line(&name.to_string())));
                    name.as_str().map(str::to_owned).ok_or_else(wrong)
                });
                names.collect::<Result<_>>().map(|names| Some(Names::Listed(names)))
            }
        }
    }

    fn hold(&self, module: &str) -> bool {
        match self {
            Names::Pattern(pattern) => pattern.matches(module),
            Names::Listed(names) => names.iter().any(|name| module == name || ends_in(module, name)),
        }
    }
}

/// Whether `name` is the last parts of the path `module`.
fn ends_in(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

/// The modules that carry an adapter, with exceptions in rank and alpha.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterModules {
    targets: Names,
    excluded: Option<Names>,
    /// Modules that are stored whole carry none.
    saved: Vec<String>,
    layers: Option<Vec<usize>>,
    /// How a layer's number stands in a name.
    layer_patterns: Vec<Pattern>,
    ranks: Vec<(Pattern, usize)>,
    alphas: Vec<(Pattern, f64)>,
    /// The fields as they were.
    given: Map<String, Value>,
}

impl AdapterModules {
    /// Reads the fields of an `adapter_config.json`.
    ///
    /// # Errors
    /// [`Error::File`](crate::Error::File) naming the field at fault.
    pub(super) fn read(fields: &Fields<'_>) -> Result<Self> {
        const TARGETS: &str = "target_modules";
        let all = LoraTarget::ALL.map(|target| target.name().to_owned()).to_vec();
        let targets = match fields.value(TARGETS) {
            Some(Value::String(word)) if word == "all-linear" => Names::Listed(all),
            _ => Names::read(fields, TARGETS)?.ok_or_else(|| fields.error(TARGETS, "names no projection"))?,
        };
        // Adapters of embeddings have other matrices, and one of the output head is beside a weight that may be tied.
        if let Names::Listed(names) = &targets
            && let Some(other) = names
                .iter()
                .find(|name| ["embed_tokens", "lm_head"].iter().any(|n| name == n || ends_in(name, n)))
        {
            let known = LoraTarget::ALL.map(LoraTarget::name).join(", ");
            return Err(fields.error(TARGETS, format!("\"{}\" is not one of {known}", one_line(other))));
        }
        let layers = layers(fields)?;
        if layers.is_some() && matches!(targets, Names::Pattern(_)) {
            return Err(fields.error("layers_to_transform", "goes with a list of target_modules alone"));
        }
        let read = AdapterModules {
            targets,
            excluded: Names::read(fields, "exclude_modules")?,
            saved: match Names::read(fields, "modules_to_save")? {
                Some(Names::Listed(names)) => names,
                Some(Names::Pattern(_)) => return Err(fields.error("modules_to_save", "must be a list")),
                None => Vec::new(),
            },
            layers,
            layer_patterns: layer_patterns(fields)?,
            ranks: numbers(fields, "rank_pattern", |inner, name| inner.size(name, 1 << 16))?,
            alphas: numbers(fields, "alpha_pattern", |inner, name| inner.positive(name))?,
            given: FIELDS
                .iter()
                .filter_map(|&field| Some((field.to_owned(), fields.given(field)?.clone())))
                .collect(),
        };
        if read.projections().is_empty() {
            return Err(fields.error(TARGETS, "names no projection"));
        }
        Ok(read)
    }

    /// The projections that carry an adapter in any layer, in their order.
    pub(super) fn projections(&self) -> Vec<LoraTarget> {
        let anywhere = |target: &LoraTarget| (0..LAYERS_TRIED).any(|layer| self.hold(&target.module(layer)));
        LoraTarget::ALL.into_iter().filter(anywhere).collect()
    }

    /// Whether it is nothing but a list of projections, in every layer and of one rank and alpha.
    pub(super) fn is_plain(&self) -> bool {
        let listed = matches!(&self.targets, Names::Listed(names)
            if names.iter().all(|name| LoraTarget::from_name(name).is_some()));
        let excluded = self.excluded.as_ref().is_some_and(|names| *names != Names::Listed(Vec::new()));
        listed
            && !excluded
            && self.saved.is_empty()
            && self.layers.is_none()
            && self.ranks.is_empty()
            && self.alphas.is_empty()
    }

    /// Whether the module of this name carries an adapter.
    pub(super) fn hold(&self, module: &str) -> bool {
        if self.excluded.as_ref().is_some_and(|names| names.hold(module)) {
            return false;
        }
        if self.saves(module) || !self.targets.hold(module) {
            return false;
        }
        let Some(layers) = &self.layers else { return true };
        // A module that is named in full is meant, whatever its layer.
        if matches!(&self.targets, Names::Listed(names) if names.iter().any(|name| name == module)) {
            return true;
        }
        let layer = self.layer_patterns.iter().find_map(|pattern| pattern.layer_of(module));
        layer.is_some_and(|layer| layers.contains(&layer))
    }

    /// The rank of a module, `usual` where no pattern gives one.
    pub(super) fn rank(&self, module: &str, usual: usize) -> usize {
        self.ranks.iter().find(|(pattern, _)| pattern.matches(module)).map_or(usual, |&(_, rank)| rank)
    }

    /// The alpha of a module, `usual` where no pattern gives one.
    pub(super) fn alpha(&self, module: &str, usual: f64) -> f64 {
        self.alphas.iter().find(|(pattern, _)| pattern.matches(module)).map_or(usual, |&(_, alpha)| alpha)
    }

    /// The alphas of the patterns.
    pub(super) fn alphas(&self) -> impl Iterator<Item = f64> {
        self.alphas.iter().map(|&(_, alpha)| alpha)
    }

    /// Whether the module of this name is stored whole.
    pub(super) fn saves(&self, module: &str) -> bool {
        let part = |name: &String| format!(".{module}.").contains(&format!(".{name}."));
        self.saved.iter().any(part)
    }

    /// The fields of `adapter_config.json` that said all this.
    pub(super) fn given(&self) -> &Map<String, Value> {
        &self.given
    }
}

/// `layers_to_transform`: a number or several; `None` without any.
fn layers(fields: &Fields<'_>) -> Result<Option<Vec<usize>>> {
    const FIELD: &str = "layers_to_transform";
    let number = |value: &Value| {
        let wrong = || fields.error(FIELD, format!("{} is no layer", one_line(&value.to_string())));
        value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)
    };
    match fields.value(FIELD) {
        None => Ok(None),
        Some(one @ Value::Number(_)) => Ok(Some(vec![number(one)?])),
        Some(_) => {
            let list = fields.opt_list(FIELD)?.unwrap_or_default();
            let numbers = list.iter().map(number).collect::<Result<Vec<_>>>()?;
            Ok(Some(numbers).filter(|numbers| !numbers.is_empty()))
        }
    }
}

/// `layers_pattern`: the names before a layer's number; any name without one.
fn layer_patterns(fields: &Fields<'_>) -> Result<Vec<Pattern>> {
    const FIELD: &str = "layers_pattern";
    let texts = match Names::read(fields, FIELD) {
        Ok(Some(Names::Listed(names))) if !names.is_empty() => names,
        Ok(Some(Names::Pattern(pattern))) => vec![pattern.text],
        Ok(_) => vec!["[^.]*".to_owned()],
        Err(e) => return Err(e),
    };
    texts.iter().map(|text| Pattern::new(fields, FIELD, text, r"\A.*\.{}\.(\d+)\.")).collect()
}

/// An object of patterns and numbers, tried in their order. A pattern matches whole parts at the end of a name.
fn numbers<T>(
    fields: &Fields<'_>,
    field: &str,
    read: impl Fn(&Fields<'_>, &str) -> Result<T>,
) -> Result<Vec<(Pattern, T)>> {
    let Some(Value::Object(map)) = fields.value(field) else {
        return fields.opt_object(field, |_| Ok(Vec::new())).map(Option::unwrap_or_default);
    };
    let one = |name: &String| {
        let number = fields.opt_object(field, |inner| read(inner, name))?;
        let pattern = Pattern::new(fields, field, name, r"\A(?:.*\.)?(?:{})\z")?;
        Ok(number.map(|number| (pattern, number)))
    };
    map.keys().filter_map(|name| one(name).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    fn read(json: &Value) -> Result<AdapterModules, String> {
        let map = json.as_object().unwrap();
        AdapterModules::read(&Fields::new(Path::new("a"), map)).map_err(|e| e.to_string())
    }

    /// Layers of six that carry an adapter on their `target`.
    fn on(modules: &AdapterModules, target: LoraTarget) -> Vec<usize> {
        (0..6).filter(|&layer| modules.hold(&target.module(layer))).collect()
    }

    #[test]
    fn names_ends_of_names_and_whole_names() {
        let plain = read(&json!({"target_modules": ["v_proj", "q_proj"], "rank_pattern": {}})).unwrap();
        assert!(plain.is_plain());
        assert_eq!(plain.projections(), [LoraTarget::QProj, LoraTarget::VProj]);
        assert!(read(&json!({"target_modules": "all-linear"})).unwrap().is_plain());
        let some =
            json!({"target_modules": ["self_attn.q_proj", "model.layers.2.mlp.up_proj", "Wqkv", "roj"]});
        let some = read(&some).unwrap();
        assert!(!some.is_plain());
        assert_eq!(some.projections(), [LoraTarget::QProj, LoraTarget::UpProj]);
        assert_eq!(on(&some, LoraTarget::UpProj), [2]);
        assert_eq!(on(&some, LoraTarget::QProj).len(), 6);
    }

    #[test]
    fn patterns_match_whole_names() {
        let of = |text: &str| read(&json!({ "target_modules": text })).unwrap();
        let attention = of(r".*\.self_attn\.(q|v)_proj");
        assert_eq!(attention.projections(), [LoraTarget::QProj, LoraTarget::VProj]);
        assert_eq!(on(&of(r"model\.layers\.[13]\.mlp\.down_proj"), LoraTarget::DownProj), [1, 3]);
        // As Unsloth writes them, and with a look ahead.
        let long = r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|up_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:q_proj|up_proj)))";
        assert_eq!(of(long).projections(), [LoraTarget::QProj, LoraTarget::UpProj]);
        assert_eq!(of(r"(?!.*mlp).*_proj").projections().len(), 4);
        assert!(read(&json!({"target_modules": "q_proj"})).unwrap_err().ends_with("names no projection"));
        assert!(
            read(&json!({"target_modules": "("}))
                .unwrap_err()
                .contains("target_modules: \"(\" is no pattern")
        );
    }

    #[test]
    fn layers_and_exceptions() {
        let with = |more: Value| {
            let mut json = json!({"target_modules": ["q_proj", "down_proj"]});
            json.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read(&json)
        };
        assert_eq!(on(&with(json!({"layers_to_transform": [0, 4]})).unwrap(), LoraTarget::QProj), [0, 4]);
        assert_eq!(on(&with(json!({"layers_to_transform": 3})).unwrap(), LoraTarget::DownProj), [3]);
        let pattern = json!({"layers_to_transform": [1], "layers_pattern": "layers"});
        assert_eq!(on(&with(pattern).unwrap(), LoraTarget::QProj), [1]);
        let other = json!({"layers_to_transform": [1], "layers_pattern": ["h"]});
        assert!(with(other).unwrap_err().ends_with("names no projection"));
        let excluded = with(json!({"exclude_modules": r".*\.[0-4]\.mlp.*"})).unwrap();
        assert_eq!(
            (on(&excluded, LoraTarget::DownProj), on(&excluded, LoraTarget::QProj).len()),
            (vec![5], 6)
        );
        let saved = with(json!({"modules_to_save": ["mlp", "lm_head"]})).unwrap();
        assert_eq!(saved.projections(), [LoraTarget::QProj]);
        let both = json!({"target_modules": ".*q_proj", "layers_to_transform": [1]});
        assert!(read(&both).unwrap_err().contains("layers_to_transform: goes with a list"));
        assert!(with(json!({"layers_to_transform": [-1]})).unwrap_err().contains("layers_to_transform: -1"));
    }

    #[test]
    fn ranks_and_alphas_are_those_of_the_first_pattern_that_fits() {
        let json = json!({
            "target_modules": ["q_proj", "down_proj"],
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "q_proj": 4, "^model.layers.5.mlp.down_proj": 8},
            "alpha_pattern": {r"mlp\..*": 32},
        });
        let modules = read(&json).unwrap();
        let rank = |layer, target: LoraTarget| modules.rank(&target.module(layer), 16);
        assert_eq!((rank(0, LoraTarget::QProj), rank(1, LoraTarget::QProj)), (4, 2));
        assert_eq!((rank(5, LoraTarget::DownProj), rank(4, LoraTarget::DownProj)), (8, 16));
        let alpha = |target: LoraTarget| modules.alpha(&target.module(0), 1.0);
        assert_eq!((alpha(LoraTarget::DownProj), alpha(LoraTarget::QProj)), (32.0, 1.0));
        assert_eq!(
            modules.given().keys().collect::<Vec<_>>(),
            ["target_modules", "rank_pattern", "alpha_pattern"]
        );
        let wrong = json!({"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 0}});
        assert!(read(&wrong).unwrap_err().contains("rank_pattern.q_proj: must be a whole number"));
        assert!(
            read(&json!({"target_modules": ["q_proj"], "alpha_pattern": [1]}))
                .unwrap_err()
                .contains("alpha_pattern")
        );
    }

    #[test]
    fn a_pattern_that_would_never_end_matches_nothing() {
        let hostile = json!({ "target_modules": format!("(?:(a|a|{})*)*(?=b)b", "[a-z_.0-9]") });
        let _ = read(&hostile);
    }
}
