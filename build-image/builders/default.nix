# A derivation that is built by a Python program of this folder.
#
# There is no stdenv around them: its setup takes longer than packing a small layer, and each
# layer would be packed again whenever any part of stdenv changes. A derivation depends on its
# attributes, on Python, and on the files that it runs.
{
  # The package set with the tools, for the machine that builds
  tools,
}:
let
  # The modules of this folder that each program imports
  imports = {
    capture_output = [ "attributes" ];
    describe_image = [
      "attributes"
      "oci"
    ];
    describe_index = [
      "attributes"
      "oci"
    ];
    draw_picture = [ "attributes" ];
    lay_out_image = [
      "attributes"
      "oci"
    ];
    link_contents = [
      "archives"
      "attributes"
      "oci"
      "store"
    ];
    make_database = [
      "archives"
      "attributes"
    ];
    pack_layer = [
      "archives"
      "attributes"
      "oci"
      "processes"
    ];
    pack_layers = imports.pack_layer ++ [ "pack_layer" ];
    package_program = [ "attributes" ];
    plan_fleet = imports.plan_layers ++ [ "plan_layers" ];
    plan_layers = [ "attributes" ];
    read_base_image = [
      "archives"
      "attributes"
      "oci"
      "store"
    ];
    write_answer = [
      "attributes"
      "oci"
    ];
  };

  # Once for all derivations of a program, since the folder is read and hashed.
  sources = builtins.mapAttrs (
    program: modules:
    builtins.path {
      name = "builders";
      path = ./.;
      filter =
        path: _: builtins.elem (baseNameOf path) (map (module: "${module}.py") ([ program ] ++ modules));
    }
  ) imports;

  python = "${tools.python3}/bin/python3";

  # How Nix starts each program. It gives a builder its base name alone, and Python finds its library
  # by its full path, so env starts Python.
  commands =
    builtins.mapAttrs (program: source: {
      builder = "${tools.coreutils}/bin/env";
      args = [
        python
        # Ignore the environment and site-packages, and write no bytecode.
        "-BEsS"
        "${source}/${program}.py"
      ];
    }) sources
    // {
      # The one that runs for each layer is compiled, and its first line names Python.
      pack_layer.builder = "${packer}/bin/pack-layer";
    };

  packer = run "package_program" {
    name = "pack-layer";
    source = sources.pack_layer;
    module = "pack_layer";
    command = "pack-layer";
    inherit python;
  };

  run =
    # Name of the program
    program:
    # Attributes of the derivation, all passed to the program
    attributes:
    derivation (
      commands.${program}
      // {
        inherit (tools.stdenv.buildPlatform) system;
        __structuredAttrs = true;
      }
      // attributes
    );
in
run
