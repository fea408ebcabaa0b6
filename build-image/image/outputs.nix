# The documents and layers of an image, or of an image index -> an OCI image layout, and the other
# ways out of the store: an archive, a stream, and the program that pushes.
{
  # The package set with the tools, for the machine that builds
  tools,
  # The programs that make derivations (builders/default.nix)
  builders,
}:
{
  # Name and tag of the image
  name,
  tag,
  # Folder that describe_image.py or describe_index.py has written
  documents,
  # Derivations whose outputs hold the layers
  packed,
  # Architecture of the image; of an index, the one whose image `docker load` takes
  architecture,
}:
let
  inherit (builtins) concatStringsSep;

  # For store names
  shortName = builtins.substring 0 100 (baseNameOf name);

  layout = builders.lay_out_image {
    name = "${shortName}-image";
    imageName = name;
    inherit tag architecture documents;
    blobs = packed;
  };

  archiveCommand = [
    "${tools.gnutar}/bin/tar"
    "--create"
    "--format=gnu"
    "--dereference"
    "--sort=name"
    "--mtime=@1"
    "--owner=root:0"
    "--group=root:0"
    # Folders in the store are read-only: users other than root could not unpack files into them.
    "--mode=u+w"
    "--warning=no-file-changed"
    "--directory=${layout}"
    "oci-layout"
    "index.json"
    "manifest.json"
    "blobs"
  ];

  # A script that writes the archive to standard output. tar's status is 1 if a file's inode changed
  # meanwhile, as in pack_layer.py, but also if a blob has been collected before tar came to it.
  stream = tools.writeShellScript "stream-${shortName}" ''
    ${concatStringsSep " " archiveCommand} || {
      status=$?
      ((status == 1)) || exit $status
      for blob in ${layout}/blobs/sha256/*; do [[ -e $blob ]] || exit 1; done
    }
  '';
in
{
  inherit layout;

  inherit stream;

  # The image as one file: an OCI archive that `docker load` reads, too.
  archive = builders.capture_output {
    name = "${shortName}.tar";
    command = [ "${stream}" ];
  };

  copyTo = import ./copy-to.nix { inherit tools; } {
    images.${name} = {
      place = "${name}:${tag}";
      inherit documents packed;
    };
  };
}
