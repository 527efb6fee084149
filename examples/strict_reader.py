"""A reader of adapters in one file, made from the text of spec/v1 and Python's standard library alone.

python strict_reader.py manifests|weights|directories|paths PATH: exit code 0 accepts, 1 refuses and says why.
"""

import hashlib
import json
import re
import sys
import unicodedata
from calendar import monthrange
from math import prod
from pathlib import Path

MIB, SAFETENSORS, LORA = 1024 * 1024, "application/vnd.safetensors", "adapter_model.safetensors"


class Refused(Exception):
    """An id, and what is wrong in words."""


def refuse(condition, problem, id="manifest-invalid"):
    if condition:
        raise Refused(id, problem)


# manifest.md, "Form". What strings must not hold, as it looks in the JSON that Python writes:
FORBIDDEN = re.compile(r"(?<!\\)(\\\\)*\\[ubfr]|[\x7f\ud800-\udfff]")


def parse(data, max_depth):
    try:
        text, depth = data.decode(), 0
        for bracket in re.findall(r"[\[\]{}]", re.sub(r'(?s)"(\\.|[^"\\])*+"', "", text)):
            depth += 1 if bracket in "[{" else -1
            refuse(depth > max_depth, "it is nested too deep")
        numbers = {"parse_int": whole, "parse_float": whole, "parse_constant": whole}
        said = json.loads(text, object_pairs_hook=once, **numbers)
    except (ValueError, RecursionError) as error:
        raise Refused("manifest-invalid", f"it is no JSON in UTF-8: {error}") from None
    refuse(FORBIDDEN.search(json.dumps(said, ensure_ascii=False)), "a string holds what it must not")
    return said


def once(pairs):
    refuse(len(dict(pairs)) != len(pairs), "a name occurs twice in an object")
    return dict(pairs)


def whole(digits):
    fits = re.fullmatch(r"-?[0-9]{1,16}", digits) and abs(int(digits)) < 2**53
    refuse(not fits, f"{digits[:40]} is no integer, or beyond 2^53 - 1")
    return int(digits)


# manifest.md, "The manifest" and after it. A member with "?" is OPTIONAL; [x] is an array of x, [x]+ one that
# is not empty, [x]! one without repetitions, {x} an object with values x, a|b one of these words.
OBJECTS = """manifest specVersion:text kind:adapter| requires:[word]! identity:identity base:base
components:[component]+ files:[file]+ treeDigest:digest license:license $schema?:text publisher?:text
expires?:moment composition?:tree derivedFrom?:[derived] tensors?:tensors quantization?:quantization
tasks?:[task] languages?:[language] hardware?:hardware runtime?:runtime training?:training
evaluation?:[evaluation] licenseFiles?:[text] use?:use security?:security ext?:ext; identity namespace:name
name:name version:version createdAt:moment releaseSequence:count channel?:word; base repo:text
architecture:text tensorsDigest:digest configDigest:digest revision?:commit weights?:[shard]
configSemanticDigest?:digest tokenizerDigest?:digest chatTemplateDigest?:digest quantization?:part; shard
path:path size:count sha256:sha256; derivative name:word paper?:text plugin?:plugin; component id:id
derivative:derivative parts:parts config?:config files:[path]+! dtype:dtype scale?:decimal; plugin name:word
distribution:word version?:range entryPoint?:text wheelDigest?:digest; part name:word plugin:word
distribution:word version:text options?:free; parts adapter:part quantizer?:part rank_scheduler?:part
loss_combiner?:part; config r?:positive alpha?:alpha rankPattern?:{count} alphaPattern?:{alpha}
targetModules?:[text] bias?:text modulesToSave?:[text] useDora?:flag useRslora?:flag taskNames?:[word]
nested?:flag peftSettings?:free pastWeights?:[digest] pastRanks?:{[positive]}; tree
op:single|sum|concat|switch|route inputs:[input]+; external reference:text manifestDigest:digest; input
component?:id external?:external composition?:tree weight?:decimal; derived manifestDigest:digest
relation:word; task type:word head?:text labels?:[text]; file path:path size:count sha256:sha256
mediaType:mediaType role:word; tensors count:count bytes:count keysDigest:digest; memory load?:count
infer?:count; quantization method:word bits:positive groupSize?:positive scheme?:word; fallback file:text
format:word; hardware minMemoryBytes?:memory dtypes?:[word]! instructionSets?:[word]! accelerators?:[word]!
maxLatencyMs?:decimal; runtime edgelora?:range peft?:range formats?:[word]! fallback?:fallback; training
framework?:text seed:count steps:count epochs?:decimal tokens?:count hyperparameters?:free datasets?:[rows]
versions?:{text} recipeDigest?:digest peakMemoryBytes?:{count} codeCommit?:text startedAt?:moment
finishedAt?:moment; dataset name:text digest?:digest split?:text; rows name:text revision?:text
digest?:digest license?:text rows?:count heldOutDigest?:digest; evaluation metric:text value:decimal n:count
low?:decimal high?:decimal phase?:base|adapter task?:word unit?:text splitDigest?:digest dataset?:dataset
harness?:text seed?:count higherIsBetter?:flag; use intended?:text outOfScope?:text risk?:text
guardrails?:[guard]; security pickle?:no; guard id:word required:flag digest?:digest"""
OBJECTS = {name: dict(each.split(":") for each in rest) for name, *rest in map(str.split, OBJECTS.split(";"))}
NUMBER, LABEL = r"(0|[1-9][0-9]*)", r"[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*"
FIELD = rf"({NUMBER}|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
RELEASE = rf"{NUMBER}(\.{NUMBER})*((a|b|rc){NUMBER})?(\.post{NUMBER})?(\.dev{NUMBER})?"
CLAUSE = rf"((>=|<=|>|<|==|!=) ?{RELEASE}|(==|!=) ?{NUMBER}(\.{NUMBER})*\.\*|~= ?(?=[0-9]+\.[0-9]){RELEASE})"
FORMS = rf"""text (?s:.)+  path (?s:.)+  dtype BOOL|[UI](8|16|32|64)|F8_E4M3|F8_E5M2|B?F16|F32|F64
word [A-Za-z0-9][A-Za-z0-9._:/-]{{0,127}}  name (?=.{{1,64}}\Z)[a-z0-9]+([._-][a-z0-9]+)*
id [a-z0-9]([a-z0-9._-]{{0,62}}[a-z0-9])?  sha256 [0-9a-f]{{64}}  commit [0-9a-f]{{40}}|[0-9a-f]{{64}}
version (?=.{{1,128}}\Z){NUMBER}\.{NUMBER}\.{NUMBER}(-{FIELD}(\.{FIELD})*)?(\+{LABEL})?
range (?=.{{1,256}}\Z){CLAUSE}(, ?{CLAUSE})*  decimal -?{NUMBER}(\.[0-9]+)?  digest sha256:[0-9a-f]{{64}}
moment (?!0000)[0-9]{{4}}-(0[1-9]|1[0-2])-[0-3][0-9]T([01][0-9]|2[0-3])(:[0-5][0-9]){{2}}(\.[0-9]{{1,6}})?Z
mediaType [a-z]+/[A-Za-z0-9][A-Za-z0-9.+-]*  language [A-Za-z]{{2,8}}(-[A-Za-z0-9]{{1,8}})*
license [A-Za-z0-9(][A-Za-z0-9.+():/ -]{{0,255}}
extension x-[a-z0-9-]{{1,63}}(\.[a-z0-9-]{{1,63}}){{1,8}}/[A-Za-z0-9._:/-]{{1,128}}"""
FORMS = dict(each.split(" ", 1) for each in FORMS.replace("\n", "  ").split("  "))


def check(value, kind, place):
    if kind in OBJECTS or kind[0] == "{" or kind in ("free", "ext"):
        refuse(not isinstance(value, dict), f"{place} is no object")
    if kind in OBJECTS:
        for name, wanted in OBJECTS[kind].items():
            refuse(not name.endswith("?") and name not in value, f"{place} lacks {name}")
            if (name := name.rstrip("?")) in value:
                check(value[name], wanted, name)
        refuse(kind == "parts" and not {*value} <= {each.rstrip("?") for each in OBJECTS[kind]}, "no part")
        given = {"component", "external", "composition"} & {*value}
        refuse(kind == "input" and len(given) != 1, "an input is several things, or none")
    elif kind[0] == "[":
        refuse(not isinstance(value, list) or ("+" in kind and not value), f"{place} is no array, or empty")
        for each in value:
            check(each, re.sub(r"[\[\]+!]", "", kind), place)
        refuse("!" in kind and len(set(value)) != len(value), f"{place} lists an entry twice")
    elif kind[0] == "{" or kind == "ext":
        for key, each in value.items():
            check(key, {"ext": "extension", "peakMemoryBytes": "word"}.get(place, "text"), place)
            check(each, kind.strip("{}") if kind != "ext" else "any", place)
    elif kind in ("flag", "no"):
        refuse(not isinstance(value, bool) or (kind == "no" and value), f"{place} is no boolean, or true")
    elif kind in ("count", "positive") or (kind == "alpha" and not isinstance(value, str)):
        refuse(type(value) is not int or value < (kind != "count"), f"{place} is no integer, or too small")
    elif kind not in ("free", "any"):
        form = FORMS.get("decimal" if kind == "alpha" else kind, kind.strip("|"))
        refuse(not isinstance(value, str) or not re.fullmatch(form, value), f"{place} is no {kind}")
    if kind == "moment":
        year, month, day = map(int, value[:10].split("-"))
        refuse(not 1 <= day <= monthrange(year, month)[1], f"{value} is no day")


def read_manifest(data):
    refuse(len(data) > MIB, "it is larger than 1 MiB")
    manifest = parse(data, 32)
    refuse(not isinstance(manifest, dict), "it is no object")
    version, requires = str(manifest.get("specVersion")), manifest.get("requires")
    refuse(not re.fullmatch(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})", version), "it has no specVersion")
    refuse(not version.startswith("1."), f"it is of specification {version}", "spec-version")
    unknown = isinstance(requires, list) and {*map(str, requires)} - {"plugin"}
    refuse(unknown, f"it requires {unknown!a}", "feature-required")
    check(manifest, "manifest", "the manifest")
    files, components = manifest["files"], manifest["components"]
    paths, ids = [each["path"] for each in files], [each["id"] for each in components]
    check_paths(paths)
    check_paths(each["path"] for each in manifest["base"].get("weights", []))
    refuse(any(map(UNLISTED.fullmatch, paths)), "a file is listed that never is")
    types = {each["mediaType"] for each in files if each["role"] == "weights"}
    refuse(types - {SAFETENSORS}, "weights are no safetensors")
    refuse(len(set(ids)) != len(ids), "an id of a component occurs twice")
    named = {*manifest.get("licenseFiles", []), *(path for each in components for path in each["files"])}
    named |= {task["head"] for task in manifest.get("tasks", []) if "head" in task}
    named |= {manifest.get("runtime", {}).get("fallback", {}).get("file", paths[0])}
    refuse(named - set(paths), "a file is named and not listed")
    check_composition(manifest.get("composition"), ids, requires, levels=8)
    rows = [(each["path"].encode(), f"{each['sha256']} {each['size']} ".encode()) for each in files]
    tree = hashlib.sha256(b"edgelora-tree-v1\n")
    tree.update(b"".join(size + path + b"\n" for path, size in sorted(rows)))
    refuse(manifest["treeDigest"] != f"sha256:{tree.hexdigest()}", "treeDigest differs", "digest-mismatch")
    return manifest


def check_composition(tree, ids, requires, levels):
    refuse(tree and levels == 0, "a composition is deeper than 8 levels")
    op = tree["op"] if tree else "single"
    refuse(op != "single" and f"compose:{op}" not in requires, f"requires does not list compose:{op}")
    for each in tree["inputs"] if tree else ():
        refuse(each.get("component", ids[0]) not in ids, "a composition names no component")
        check_composition(each.get("composition"), ids, requires, levels - 1)


# layout.md, "File names".
UNLISTED = re.compile(r"(?s)edgelora\.json|\.gitattributes|edgelora\.sig[^/]*")
DEVICE = re.compile(r"(?ai)(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?")


def check_paths(paths):
    files, folders = set(), {}
    for path in paths:
        refuse(not isinstance(path, str) or is_bad(path), f"{path!a:.200} is not allowed", "path-invalid")
        refuse(folded(path) in files, f"{path!a} clashes with another path", "path-invalid")
        files.add(folded(path))
        for end in (at for at, each in enumerate(path) if each == "/"):
            other = folders.setdefault(folded(path[:end]), path[:end])
            refuse(other != path[:end], f"the folders of {path!a} clash with {other!a}", "path-invalid")
    refuse(files & set(folders), "a file is where a folder is needed", "path-invalid")


def folded(path):
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())


def is_bad(path):
    if set('\\:%*?"<>|') & set(path) or {"Cc", "Cf", "Cs", "Zl", "Zp"} & {*map(unicodedata.category, path)}:
        return True
    for step in path.split("/"):
        plain = unicodedata.normalize("NFKC", step)
        if step != step.lstrip(" ").rstrip(". ") or len(step.encode()) > 255 or DEVICE.fullmatch(step):
            return True
        if plain.casefold() in ("", ".", "..", ".git", "git~1") or set("/\\:") & set(plain):
            return True
    return len(path.encode()) > 1024 or path.count("/") > 15 or unicodedata.normalize("NFC", path) != path


# layout.md, "Weights".
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64, "BOOL": 8, "BF16": 16}
BITS |= {f"{kind}{bits}": bits for kind in "UIF" for bits in (8, 16, 32, 64) if f"{kind}{bits}" != "F8"}
BITS |= dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def read_header(data):
    length = int.from_bytes(data[:8], "little")
    refuse(len(data) < 8 or length > MIB or 8 + length > len(data), "its header is too long, or cut off")
    refuse(data[8:9] != b"{", "its header does not start with {")
    header, tensors = parse(data[8 : 8 + length], 3), {}
    notes = header.pop("__metadata__", {})
    refuse(not isinstance(notes, dict) or {*map(type, notes.values())} - {str}, "notes")
    refuse(len(header) > 100_000, "it names too many tensors")
    for name, entry in header.items():
        refuse(not re.fullmatch(r"(?!/)(?!.*\.\.)[!-\[\]-~]{1,512}", name), f"{name[:80]!a} is no name")
        refuse(not isinstance(entry, dict) or {*entry} != {"dtype", "shape", "data_offsets"}, "no tensor")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        refuse(not isinstance(dtype, str) or dtype not in BITS, f"{name} has an unknown dtype")
        for numbers in (shape, offsets):
            refuse(not isinstance(numbers, list) or len(numbers) > 32, f"{name} has no shape, or no offsets")
            refuse(any(type(each) is not int or each < 0 for each in numbers), f"{name} has wrong numbers")
        bits = prod(shape) * BITS[dtype]
        refuse(len(offsets) != 2 or (offsets[1] - offsets[0]) * 8 != bits, f"{name} needs {bits} bits")
        tensors[name] = (*offsets, dtype, shape)
    places = sorted(each[:2] for each in tensors.values())
    starts, ends = [start for start, _ in places], [0, *(end for _, end in places)]
    refuse(starts != ends[:-1] or 8 + length + ends[-1] != len(data), "holes, overlaps, or other bytes")
    return tensors


def check_tensors(manifest, headers, listed):
    weights = [headers[path] for path in headers if listed[path]["mediaType"] == SAFETENSORS]
    tensors = [(name, *each) for header in weights for name, each in header.items()]
    lines = [f"{name} {dtype} [{','.join(map(str, shape))}]\n" for name, _, _, dtype, shape in tensors]
    keys = hashlib.sha256("".join(["edgelora-keys-v1\n", *sorted(lines)]).encode()).hexdigest()
    actual = {"count": len(tensors), "keysDigest": f"sha256:{keys}"}
    actual["bytes"] = sum(end - start for _, start, end, _, _ in tensors)
    said = manifest.get("tensors", actual)
    refuse({**said, **actual} != said, "the summary of the tensors differs", "digest-mismatch")
    for each in manifest["components"]:
        config = each.get("config", {})
        plain = LORA in each["files"] and not any(map(config.get, ("peftSettings", "useDora", "useRslora")))
        for name, (_, _, _, shape) in headers.get(LORA, {}).items():
            if plain and (match := FACTOR.fullmatch(name)):
                rank = config.get("rankPattern", {}).get(match[1], config.get("r"))
                wrong = len(shape) < 2 or rank not in (None, shape[match[2] == "B"])
                wrong = wrong or match[1] not in config.get("targetModules", [match[1]])
                refuse(wrong, f"{name} is not what config says", "tensors-mismatch")


# layout.md, "Files" and "No code".
CODE_NAMES = re.compile(r"\.(7z|tar|tgz|whl|zip|bin|ckpt|dill|joblib|mar|np[yz]|pickle|pkl|pt2?|pth)\Z")
CODE = re.compile(
    rb"PK(\x03\x04|\x05\x06|\x07\x08)|\x80[\x00-\x05]|c[A-Za-z_][\w.]*\n[A-Za-z_][\w.]*\n(\(|p[0-9]+\n)"
    rb"|\(([dl]p[0-9]+|[SV][^\n]*\ni[A-Za-z_]\w*\n\w+)\n|[\]})]q\x00|\x93NUMPY|\x1f\x8b|BZh[1-9]1AY"
    rb"|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|\x7fELF|MZ[\x00-\xff]{2}\x00|\xcf\xfa\xed\xfe|\xca\xfe\xba\xbe"
)


def read_directory(folder):
    every = ((path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")))
    found = {name: path for name, path in every if path.is_symlink() or not path.is_dir()}
    own, headers = found.pop("edgelora.json", folder), {}
    refuse(own.is_symlink() or not own.is_file(), "there is no regular file edgelora.json")
    manifest = read_manifest(own.read_bytes())
    listed = {entry["path"]: entry for entry in manifest["files"]}
    refuse(set(listed) - set(found), "a listed file is not there", "file-set-mismatch")
    for path, place in found.items():
        check_paths([path])
        refuse(place.is_symlink() or not place.is_file(), f"{path} is no regular file", "file-unsafe")
        refuse(not (path in listed or UNLISTED.fullmatch(path)), f"{path} is not listed", "file-set-mismatch")
    for path, place in found.items():
        data, said = place.read_bytes(), listed.get(path, {})
        actual = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        refuse(said and {**said, **actual} != said, f"{path} has other bytes", "digest-mismatch")
        if path.lower().endswith(".safetensors") or said.get("mediaType") == SAFETENSORS:
            headers[path] = read_header(data)
        else:
            refuse(CODE_NAMES.search(path.lower()) or CODE.match(data[:512]), f"{path}: code", "file-unsafe")
    check_tensors(manifest, {path: each for path, each in headers.items() if path in listed}, listed)


READERS = {"manifests": read_manifest, "weights": read_header, "directories": read_directory}
READERS["paths"] = lambda data: check_paths(json.loads(data))

if __name__ == "__main__":
    kind, place = sys.argv[1], Path(sys.argv[2])
    try:
        READERS.get(kind, lambda _: sys.exit(77))(place if kind == "directories" else place.read_bytes())
    except Refused as refusal:
        sys.exit(print(json.dumps({"id": refusal.args[0], "problem": refusal.args[1]})) or 1)
