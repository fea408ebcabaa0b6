# The arguments of buildImage: what each is, its default, and what may be given for it.
#
# Returns them in the form that image.nix expects. A wrong argument ends the evaluation with a
# sentence that names the argument, what was given and what to write.
#
# Arguments that dockerTools.buildLayeredImage and streamLayeredImage have as well mean the same,
# have the same defaults, and take the same values, however odd (tests/nix/test_dockertools.py).
{
  # The package set with the tools
  tools,
  # System of the machine that the image is for
  system,
  # What sentences begin with where one call is one of several, such as "images.web"
  caller ? "",
}:
let
  inherit (builtins)
    attrNames
    concatMap
    elemAt
    filter
    functionArgs
    hasContext
    isAttrs
    isBool
    isInt
    isList
    isPath
    isString
    match
    split
    storeDir
    stringLength
    toJSON
    ;
  inherit (tools.lib) hasPrefix;
  inherit (import ../lib.nix) lower;

  refuse = sentence: throw (if caller == "" then sentence else "${caller}: ${sentence}");

  parseTime = import ./parse-time.nix;
  checkConfig = import ./check-config.nix;
  nearestName = import ../names/did-you-mean.nix;
  show = import ./show.nix;

  architectures = import ./architectures.nix;
  machine = architectures.${system} or { };

  # Of a machine, by Nix's name: "aarch64" -> "arm64"
  goName = name: if isString name then architectures."${name}-linux".architecture or name else "amd64";

  # Arguments of other functions that this one does not have, and what to write instead. They may be
  # passed if their value has no effect.
  absent = {
    # dockerTools.streamLayeredImage
    debug = "leave it out: -A explain says why each layer is one";
    enableFakechroot = "leave it out: during the build, the image is not at /; write the files that the program would write";
    layeringPipeline = "write layers, popularity or maxLayers";
    # dockerTools.buildImage
    buildVMMemorySize = "leave it out: no virtual machine is started";
    copyToRoot = "write contents";
    diskSize = "leave it out: no virtual machine is started";
    fromImageName = "leave it out, and pass as fromImage an archive of one image";
    fromImageTag = "leave it out, and pass as fromImage an archive of one image";
    keepContentsDirlinks = "leave it out: a link to a folder at the root always becomes a folder";
    runAsRoot = "write fakeRootCommands, which run as a simulated root user, outside of the image";
    # nix2container.buildImage
    arch = "write architecture";
    fromImageEnv = "leave it out: all settings of the base stay that config does not replace";
    initializeNixDatabase = "write includeNixDB";
    nixGid = "write gid";
    nixUid = "write uid";
    perms = "write chmod and chown in fakeRootCommands";
  };

  # Host with a port, then parts between slashes: what registries and `docker load` take
  nameExpression =
    let
      part = "[a-z0-9]+((\\.|_|__|-+)[a-z0-9]+)*";
    in
    "([a-z0-9.-]+:[0-9]+/)?${part}(/${part})*";

  # What the `meta` of a derivation, whose name has the version, says in the names of the OCI image
  # specification
  annotationsOf =
    meta:
    let
      parsed = builtins.parseDrvName (meta.name or "");
      values = {
        title = parsed.name;
        version = meta.version or parsed.version;
        description = meta.description or "";
        licenses = meta.license.spdxId or "";
        url = meta.homepage or "";
      };
    in
    builtins.listToAttrs (
      map (key: {
        name = "org.opencontainers.image.${key}";
        value = values.${key};
      }) (filter (key: isString values.${key} && values.${key} != "") (attrNames values))
    );

  isStringLike = value: isString value || isPath value || isAttrs value && value ? outPath;
  isWithin = least: most: value: isInt value && value >= least && value <= most;

  normalize =
    {
      # Name of the image, without a tag; upper case becomes lower case
      name,
      # Tag, or null for a hash of all that the image is made from
      tag ? null,
      # Derivations or paths whose files are linked in the image's root; one or a list
      contents ? [ ],
      # Configuration of the container, as the OCI image specification has it: Cmd, Env, User, ...
      config ? { },
      # Architecture that the manifest names
      architecture ?
        machine.architecture
          or (refuse "there is no name for the architecture of ${system}: pass architecture, or a system such as \"aarch64-linux\""),
      # Creation time in the configuration: a time as `date -d` takes it, or "now"
      created ? "1970-01-01T00:00:01Z",
      # Modification time of all files: the same
      mtime ? "1970-01-01T00:00:01Z",
      # Owner of the store paths in the image
      uid ? 0,
      gid ? 0,
      uname ? "root",
      gname ? "root",
      # The maximum number of layers, those of the base included
      maxLayers ? 100,
      # An image to build on: an OCI image layout or an image archive, or null
      fromImage ? null,
      # Shell commands that run in the image's root when the contents are linked
      extraCommands ? "",
      # The same with a simulated root user, who can change the owner of files
      fakeRootCommands ? "",
      # Whether the store paths are in the image, or only links to them
      includeStorePaths ? true,
      # Whether the image has a Nix database in which its store paths are registered
      includeNixDB ? false,
      # How layers are compressed: "gz", "zstd" or "none"
      compressor ? "gz",
      # Media types of the answer: "docker", or "oci", the only one with a type for zstd
      mediaTypes ? if compressor == "zstd" then "oci" else "docker",
      # Lists of derivations; each list gets a layer of its own
      layers ? [ ],
      # Popularity table: a JSON file { name: count of direct references }, or null
      popularity ? null,
      # Plans of existing layers, which are used where they fit: a JSON file such as an image's
      # `groupedLayers` or a fleet's `lock`, or null
      known ? null,
      # Whether evaluation may build the plan; otherwise one derivation packs all layers
      importFromDerivation ? true,
      # Annotations of the manifest, which become labels of the image as well: strings by name
      annotations ? { },
      # Name, description, homepage and license, which become annotations
      meta ? { },
      # Additional attributes of the result
      passthru ? { },
      ...
    }:
    let
      # The value of an argument, checked
      check =
        argument: isRight: what: value:
        if isRight value then value else refuse "${argument} must be ${what}, not ${show value}";
      checkBoolean = argument: check argument isBool "true or false";
      checkSet = argument: check argument isAttrs "a set";
      checkCommands =
        argument: value:
        if value == null then
          ""
        else
          "${check argument isStringLike "a string of shell commands" value}";

      # A flat list of the elements of nested lists. Nulls are left out, since callers write them
      # where others write lib.optional.
      flatten =
        value:
        if isList value then
          concatMap flatten value
        else if value == null then
          [ ]
        else
          [ value ];

      # Whether a string has what stands for the path of a content-addressed derivation
      isUnknown =
        text: hasContext text && isList (elemAt (split "/([0-9a-df-np-sv-z]{52})" text ++ [ null ]) 1);

      # A file that is there; `start` is what a sentence begins with
      existing =
        start: file:
        if builtins.pathExists file then
          file
        else
          refuse "${start} ${toString file}, and there is no such file, or evaluation may not read it";

      # A path in the store, with its string context
      storePath =
        argument: value:
        let
          given = check argument isStringLike "derivations or paths, or a list of them" value;
          path = "${if isPath given then existing "${argument} has" given else given}";
        in
        if hasPrefix "${storeDir}/" path then
          path
        else if isUnknown path then
          refuse "${argument} has ${show value}, which is content-addressed: its path is known when it is built, and the plan of the layers depends on it; leave out __contentAddressed"
        else
          refuse "${argument} has ${show value}, which is not in the Nix store: write a derivation, or a path without quotes";

      # A JSON file in the store, or null
      file =
        argument: value:
        if value == null then
          null
        else if isPath value || isString value && hasPrefix "/" value && !hasContext value then
          # Under its own name, for the sentence that says what is wrong with it, if the store takes that
          builtins.path {
            name =
              if match "[0-9a-zA-Z][0-9a-zA-Z+._?=-]{0,99}" (baseNameOf value) != null then
                baseNameOf value
              else
                "${argument}.json";
            path = /. + existing "${argument} is" value;
          }
        else
          "${
            check argument (
              value: isStringLike value && hasPrefix "/" "${value}"
            ) "an absolute path or a derivation" value
          }";

      time =
        argument: value:
        let
          seconds = if isString value then parseTime value else null;
        in
        if value == "now" then
          builtins.currentTime
            or (refuse "${argument} = \"now\" is impure, and this evaluation is pure: give a time, or pass --impure")
        else if seconds != null then
          seconds
        else
          refuse "${argument} must be a time from 1970 to 9999 such as \"2024-05-06\", \"2024-05-06T07:08:09Z\", \"@1714979289\" or \"now\", not ${show value}";

      # An owner as tar takes it, NAME:NUMBER. The number may be a string, as in dockerTools, which
      # passes it in a builder's environment; the largest one means "no user" to the kernel.
      owner =
        idArgument: nameArgument: id: name:
        let
          isName = value: isString value && match "[^:[:space:]]{1,31}" value != null;
          isNumeral = isString id && match "0|[1-9][0-9]{0,9}" id != null;
          checkedName =
            check nameArgument isName "a name of at most 31 characters without colons or spaces"
              name;
          checkedId = check idArgument (
            value: isWithin 0 4294967294 (if isNumeral then builtins.fromJSON value else value)
          ) "a number from 0 to 4294967294" id;
        in
        "${checkedName}:${toString checkedId}";

      # Longer names are invalid, and matching them overflows Nix's stack.
      isShort = value: isString value && stringLength value <= 255;
      image = lower (check "name" isShort "a string of up to 255 characters" name);
      tagged = match "([^@]+):([^/]*)" image;
    in
    {
      name =
        if match nameExpression image != null then
          image
        else if tagged != null then
          refuse "name must be without a tag: write name = \"${builtins.head tagged}\"; tag = \"${builtins.elemAt tagged 1}\""
        else
          refuse "name must be letters and digits, with . _ - and / between them, such as \"team/notes\", not ${show name}";
      tag = check "tag" (
        value: value == null || isString value && match "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}" value != null
      ) "null or a string of up to 128 letters, digits, _ . - that begins with no . or -" tag;

      contents = map (storePath "contents") (flatten contents);
      # Variables that the ready-made contents (essentials.nix) set in every process
      environment = concatMap (content: content.imageEnv or [ ]) (flatten contents);
      # What is known of them: those that are derivations with `meta`
      packages = filter (content: isAttrs content && content ? meta && content ? name) (flatten contents);
      config =
        let
          checked = checkConfig name (if config == null then { } else config);
        in
        if isUnknown (toJSON checked) then
          refuse "config refers to a derivation that is content-addressed: its path is known when it is built, and the plan of the layers depends on it; leave out __contentAddressed"
        else
          checked;
      architecture = check "architecture" (
        value: isString value && match "[a-z0-9]{1,16}" value != null && goName value == value
      ) "a GOARCH value, such as \"${
          if goName architecture == architecture then "amd64" else goName architecture
        }\"" architecture;
      variant = if architecture == machine.architecture or null then machine.variant or "" else "";

      created = time "created" created;
      mtime = time "mtime" mtime;
      owner = owner "uid" "uname" uid uname;
      group = owner "gid" "gname" gid gname;

      maxLayers = check "maxLayers" (isWithin 1 125) "a number from 1 to 125" maxLayers;
      layers =
        if isList layers && builtins.all isList layers then
          map (group: map (storePath "layers") (flatten group)) layers
        else
          refuse "layers must be a list of lists of derivations, as in layers = [ [ pkgs.hello ] ], not ${
            if isList layers then "a flat list" else show layers
          }";
      popularity = file "popularity" popularity;
      known = file "known" known;
      importFromDerivation = checkBoolean "importFromDerivation" importFromDerivation;

      fromImage =
        if fromImage == null then
          null
        else if isPath fromImage then
          "${existing "fromImage is" fromImage}"
        else if isStringLike fromImage && hasPrefix "${storeDir}/" "${fromImage}" then
          "${fromImage}"
        else
          refuse "fromImage must be an image archive or OCI layout, as a derivation (dockerTools.pullImage) or a path without quotes, not ${show fromImage}";
      extraCommands = checkCommands "extraCommands" extraCommands;
      fakeRootCommands = checkCommands "fakeRootCommands" fakeRootCommands;
      includeStorePaths = checkBoolean "includeStorePaths" includeStorePaths;
      includeNixDB = checkBoolean "includeNixDB" includeNixDB;
      compressor = check "compressor" (
        value: value == "gz" || value == "zstd" || value == "none"
      ) "\"gz\", \"zstd\" or \"none\"" compressor;

      mediaTypes = check "mediaTypes" (
        value: value == "docker" || value == "oci"
      ) "\"docker\" or \"oci\"" mediaTypes;

      annotations =
        annotationsOf (checkSet "meta" meta)
        // check "annotations" (
          value: isAttrs value && builtins.all (name: isString value.${name}) (attrNames value)
        ) "a set of strings, as in annotations.\"org.opencontainers.image.source\" = \"https://...\"" annotations;
      meta = checkSet "meta" meta;
      passthru = checkSet "passthru" passthru;
    };

  asksForNothing = value: value == null || value == false || value == "" || value == [ ];
  known = attrNames (functionArgs normalize);
  suggest = nearestName { names = known; };
  # A sentence for each argument that this function does not have
  problemsOf =
    given:
    concatMap (
      argument:
      if functionArgs normalize ? ${argument} then
        [ ]
      else if !(absent ? ${argument}) then
        [ "there is no argument ${argument}${suggest argument}" ]
      else if argument == "debug" || asksForNothing given.${argument} then
        [ ]
      else
        [ "there is no argument ${argument}: ${absent.${argument}}" ]
    ) (attrNames given);
  function = if caller == "" then "buildImage" else caller;
in
given:
if !isAttrs given then
  throw "${function} takes a set of arguments, not ${show given}"
else if problemsOf given != [ ] then
  throw "${function}: ${builtins.concatStringsSep "; " (problemsOf given)}"
else if !(given ? name) then
  throw "${function}: name is missing: write name = \"hello\""
else
  let
    arguments = normalize given;
  in
  # Some forms of the image use none of these, and others only after the plan is built.
  builtins.foldl' (result: argument: builtins.seq argument result) arguments [
    arguments.tag
    arguments.mediaTypes
    arguments.architecture
  ]
