# The program `group-layers`, and its module for builders that call its functions.
#
# Compiled here: compiling the program takes longer than a plan of 50 store paths does. Whether the
# bytecode belongs to the source is settled by the store, so Python is told not to look.
{
  # Package set with Python
  tools,
}:
tools.runCommand "group-layers"
  {
    meta = {
      description = "Group the store paths of a container image into layers";
      mainProgram = "group-layers";
    };
  }
  ''
    mkdir -p $out/bin $out/lib
    cp ${../group_layers.py} $out/lib/group_layers.py
    ${tools.python3}/bin/python3 -BEsS - $out/lib/group_layers.py <<'END'
    import py_compile, sys
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(sys.argv[1], doraise=True, invalidation_mode=unchecked)
    END
    cat > $out/bin/group-layers <<END
    #!${tools.python3}/bin/python3 -BEsS
    import sys

    sys.path[0] = "$out/lib"
    from group_layers import main

    sys.exit(main())
    END
    chmod +x $out/bin/group-layers
  ''
