# Contents and a configuration -> an OCI image layout, and what is made from it.
#
# Arguments that dockerTools.buildLayeredImage has as well mean the same here.
{
  # The package set with the tools, for the machine that builds
  tools,
  # System of the machine that the image is for
  system ? tools.stdenv.hostPlatform.system,
}:
let
  inherit (builtins)
    attrNames
    concatLists
    concatStringsSep
    filter
    head
    isAttrs
    isInt
    isList
    isString
    toJSON
    ;

  runBuilder = import ./builders { inherit tools; };
  makeLayers = import ./layers.nix { inherit runBuilder; };
  checkConfig = import ./check-config.nix;

  # Names of machines in the OCI image specification, which are Go's.
  architectures = {
    x86_64-linux.architecture = "amd64";
    i686-linux.architecture = "386";
    aarch64-linux.architecture = "arm64";
    armv7l-linux = {
      architecture = "arm";
      variant = "v7";
    };
    armv6l-linux = {
      architecture = "arm";
      variant = "v6";
    };
    riscv64-linux.architecture = "riscv64";
    powerpc64le-linux.architecture = "ppc64le";
    s390x-linux.architecture = "s390x";
    loongarch64-linux.architecture = "loong64";
  };
  machine =
    architectures.${system}
      or (throw "there is no name for the architecture of ${system}: pass architecture");

  # Store paths that a string refers to: what it names, with the references that it has. (Its
  # context alone names derivations, not their outputs.)
  storePathsIn =
    string:
    let
      pattern = "(${builtins.storeDir}/[0-9a-df-np-sv-z]{32}-[-+._?=0-9a-zA-Z]+)";
      references = builtins.substring 0 0 string;
      found = filter isList (builtins.split pattern (builtins.unsafeDiscardStringContext string));
    in
    if builtins.hasContext string then unique (map (match: references + head match) found) else [ ];

  # Contents may be folders in store paths; Nix exports the references of whole ones only.
  wholePaths =
    paths:
    concatLists (
      map (
        path:
        let
          whole = storePathsIn path;
        in
        if whole == [ ] then [ path ] else whole
      ) paths
    );

  unique = list: map (value: value.key) (
    builtins.genericClosure {
      startSet = map (key: { inherit key; }) list;
      operator = _: [ ];
    }
  );

  # What commands find in their PATH: the programs of every stdenv.
  programsPath = concatStringsSep ":" (
    map (package: "${package}/bin") [
      tools.coreutils
      tools.findutils
      tools.diffutils
      tools.gnused
      tools.gnugrep
      tools.gawk
      tools.gnutar
      tools.gzip
      tools.bzip2
      tools.gnumake
      tools.bash
      tools.gnupatch
      tools.xz
      tools.file
    ]
  );

  # A time as tar takes it: as given, or @ and the seconds since 1970 for "now".
  checkTime =
    what: value:
    if value == "now" then
      "@${
        toString (
          builtins.currentTime
            or (throw "${what} = \"now\" is impure, and this evaluation is pure: give a time, or pass --impure")
        )
      }"
    else if
      isString value
      && builtins.match "[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]{8,15}(Z|[+-][0-9]{2}:[0-9]{2}))?" value != null
    then
      value
    else
      throw "${what} must be a time such as 1970-01-01T00:00:01Z or \"now\", not ${toJSON value}";
in
{
  # Name of the image, without a tag
  name,
  # Tag, or null for a hash of all that the image is made from
  tag ? null,
  # Derivations or paths whose files are linked in the image's root; one or a list
  contents ? [ ],
  # Configuration of the container, as the OCI image specification has it: Cmd, Env, User, ...
  config ? { },
  # Architecture that the manifest names
  architecture ? machine.architecture,
  # When the image says that it was made: ISO 8601, or "now"
  created ? "1970-01-01T00:00:01Z",
  # Modification time of all files: ISO 8601, or "now"
  mtime ? "1970-01-01T00:00:01Z",
  # Owner of the store paths in the image
  uid ? 0,
  gid ? 0,
  uname ? "root",
  gname ? "root",
  # The most layers that the image may have, those of the base included
  maxLayers ? 100,
  # An image to build upon: an OCI image layout or an image archive, or null
  fromImage ? null,
  # Shell commands that run in the image's root when the contents are linked
  extraCommands ? "",
  # The same as an imitated root user, who can give files away
  fakeRootCommands ? "",
  # Whether the store paths are in the image, or only links to them
  includeStorePaths ? true,
  # Whether the image has a Nix database that knows its store paths
  includeNixDB ? false,
  # How layers are compressed: "gz", "zstd" or "none"
  compressor ? "gz",
  # Lists of derivations; each list has a layer of its own, whatever the grouping says
  layers ? [ ],
  # Popularity table: a JSON file { name: count of direct references }, or null
  popularity ? null,
  # Whether evaluation may build the plan of the layers; otherwise one derivation does all
  importFromDerivation ? true,
  # Description, homepage and license, which become labels of the image
  meta ? { },
  # Further attributes of the result
  passthru ? { },
}:
let
  compressors = {
    gz = "${tools.libdeflate}/bin/libdeflate-gzip";
    zstd = "${tools.zstd}/bin/zstd";
    none = "";
  };

  contentsList = unique (map (content: "${content}") (if isList contents then contents else [ contents ]));

  # What the ready-made contents (essentials.nix) want set in every process.
  environment = concatLists (
    map (content: content.imageEnv or [ ]) (
      filter isAttrs (if isList contents then contents else [ contents ])
    )
  );

  # What `meta` says of the image, under the names of the OCI image specification's annotations.
  labels = {
    "org.opencontainers.image.description" = meta.description or null;
    "org.opencontainers.image.licenses" = meta.license.spdxId or null;
    "org.opencontainers.image.url" = meta.homepage or null;
  };
  knownLabels = removeAttrs labels (filter (label: labels.${label} == null) (attrNames labels));
  checkedConfig = checkConfig name config;
  labelled =
    if knownLabels == { } then
      checkedConfig
    else
      checkedConfig // { Labels = knownLabels // checkedConfig.Labels or { }; };
  configText = toJSON labelled;

  base =
    if fromImage == null then
      null
    else
      runBuilder [ "read_base.py" ] {
        name = "base-image";
        fromImage = "${fromImage}";
        inherit architecture;
        skopeo = "${tools.skopeo}/bin/skopeo";
      };

  commands = extraCommands != "" || fakeRootCommands != "";
  root = runBuilder [ "link_contents.py" ] {
    name = "image-root.tar";
    contents = contentsList;
    exportReferencesGraph.closure = wholePaths contentsList;
    inherit extraCommands fakeRootCommands;
    tar = "${tools.gnutar}/bin/tar";
    shell = if commands then "${tools.bash}/bin/bash" else "";
    path = if commands then programsPath else "";
    fakeroot = if fakeRootCommands != "" then "${tools.fakeroot}/bin/fakeroot" else "";
    mtime = packing.mtime;
  };

  roots = unique (wholePaths contentsList ++ storePathsIn configText);
  grouped = map (group: wholePaths (map (path: "${path}") group)) layers;

  database = runBuilder [ "make_database.py" ] {
    name = "nix-database.tar";
    exportReferencesGraph.closure = roots ++ [ root ] ++ concatLists grouped;
    leftOut = [ "${root}" ];
    nixStore = "${tools.nix}/bin/nix-store";
    tar = "${tools.gnutar}/bin/tar";
    inherit (builtins) storeDir;
    inherit (packing) mtime owner group;
    unsafeDiscardReferences.out = true;
  };

  packing = {
    tar = "${tools.gnutar}/bin/tar";
    inherit compressor;
    compressorProgram =
      compressors.${compressor}
        or (throw "compressor must be \"gz\", \"zstd\" or \"none\", not \"${compressor}\"");
    inherit (builtins) storeDir;
    mtime = checkTime "mtime" mtime;
    owner = "${uname}:${toString uid}";
    group = "${gname}:${toString gid}";
  };

  layered = makeLayers {
    inherit
      roots
      grouped
      maxLayers
      base
      includeStorePaths
      importFromDerivation
      packing
      ;
    archives = [ "${root}" ] ++ (if includeNixDB then [ "${database}" ] else [ ]);
    # A path is copied to the store, under a name that the store takes.
    popularity =
      if builtins.isPath popularity then
        builtins.path {
          name = "popularity.json";
          path = popularity;
        }
      else if popularity == null then
        null
      else
        "${popularity}";
  };

  # All that decides what is in the image, and so what its tag is unless one was given.
  ingredients = {
    inherit architecture environment base;
    variant = if architecture == machine.architecture then machine.variant or "" else "";
    inherit (layered) layers;
    # Without context: what the configuration names is in the layers, and the layout only mentions
    # it.
    config = builtins.fromJSON (builtins.unsafeDiscardStringContext configText);
    created = checkTime "created" created;
  };
  imageTag =
    if tag != null && builtins.match "[A-Za-z0-9_][A-Za-z0-9._-]{0,127}" tag == null then
      throw "tag must be up to 128 letters, digits, _ . - and begin with no . or -, not ${toJSON tag}"
    else if tag != null then
      tag
    else
      builtins.substring 0 32 (
        builtins.hashString "sha256" (builtins.unsafeDiscardStringContext (toJSON ingredients))
      );

  archiveCommand = [
    "${tools.gnutar}/bin/tar"
    "--create"
    "--format=gnu"
    "--dereference"
    "--sort=name"
    "--mtime=@1"
    "--owner=root:0"
    "--group=root:0"
    # Folders of the store are read-only: whoever is not root could not unpack files into them.
    "--mode=u+w"
    "--directory=${image}"
    "oci-layout"
    "index.json"
    "manifest.json"
    "blobs"
  ];

  image = runBuilder [ "assemble_image.py" "read_base.py" ] (
    ingredients
    // {
      name = "image";
      imageName = name;
      tag = imageTag;
      outputs = [
        "out"
        "answer"
      ];
    }
  );
in
if !(isInt maxLayers && maxLayers >= 1 && maxLayers <= 125) then
  throw "maxLayers must be a number from 1 to 125, not ${toJSON maxLayers}"
else
  image
  // passthru
  // {
    inherit meta passthru imageTag;
    imageName = name;
    inherit (layered) layers plan explain;

    # The image as one file that can be carried away: an OCI archive that `docker load` reads, too.
    archive = runBuilder [ "capture_output.py" ] {
      name = "image.tar";
      command = archiveCommand;
      unsafeDiscardReferences.out = true;
    };

    # A script that writes the same file to standard output.
    stream = tools.writeShellScript "stream-image" ''
      exec ${concatStringsSep " " archiveCommand}
    '';

    # `copy-to DESTINATION [OPTION ...]`: skopeo, which pushes only what is missing there.
    copyTo = tools.writeShellScriptBin "copy-to" ''
      if (($# == 0)); then
        echo "usage: copy-to DESTINATION [OPTION ...], as in: copy-to docker://localhost:5000/image" >&2
        exit 2
      fi
      exec ${tools.skopeo}/bin/skopeo --insecure-policy copy "''${@:2}" oci:${image}:${imageTag} "$1"
    '';

    # What another machine needs besides the layers' own store paths to have this image without
    # building anything: copy its closure to a binary cache.
    cache = tools.writeText "image-cache" (
      concatStringsSep "\n" ([ "${image}" "${image.answer}" ] ++ map toString [ layered.plan ])
    );
  }
