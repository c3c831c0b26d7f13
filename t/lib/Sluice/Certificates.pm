# Certificates for tests of TLS, made anew by openssl.
package Sluice::Certificates;

use strict;
use warnings;

use Exporter 'import';
use File::Temp ();
use Sluice::Run;

our @EXPORT = qw(certificates);

# certificates(NAME => { names => 'DNS:…,IP:…', by => 'ca', seconds => N }, …): a directory with NAME.crt and NAME.key for
# each, signed by the authority "ca" or another one, which is made too (CA.crt). Valid from yesterday until in so many
# seconds (86400), which may lie in the past.
sub certificates {
    my %of  = @_;
    my $dir = File::Temp::tempdir(CLEANUP => 1);
    chmod 0755, $dir;
    Sluice::Run::spew("$dir/ca.conf", join "\n", '[ca]', 'default_ca=ca', 'database=index', 'new_certs_dir=.', 'rand_serial=yes', 'default_md=sha256',
        'policy=any', 'copy_extensions=copy', 'unique_subject=no', '[any]', 'commonName=supplied', '[req]', 'distinguished_name=name', '[name]', '');
    Sluice::Run::spew("$dir/index", '');
    my %made;
    for my $name (sort keys %of) {
        my %one = (by => 'ca', seconds => 86400, names => 'IP:127.0.0.1', %{ $of{$name} });
        $made{ $one{by} }++ or openssl($dir, 'req', '-x509', new_key($one{by}), '-out', "$one{by}.crt", '-subj', "/CN=$one{by}", '-days', 2);
        openssl($dir, 'req', new_key($name), '-out', "$name.csr", '-subj', "/CN=$name", '-addext', "subjectAltName=$one{names}");
        openssl($dir, 'ca', '-batch', '-notext', '-config', 'ca.conf', '-cert', "$one{by}.crt", '-keyfile', "$one{by}.key", '-in', "$name.csr",
            '-out', "$name.crt", '-startdate', day(-86400), '-enddate', day($one{seconds}));
    }
    return $dir;
}

sub new_key { ('-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', "$_[0].key") }

sub day {
    my @at = gmtime time + $_[0];
    return sprintf '%04d%02d%02d%02d%02d%02dZ', $at[5] + 1900, $at[4] + 1, @at[ 3, 2, 1, 0 ];
}

sub openssl {
    my ($dir, @words) = @_;
    my $command = join ' ', map {"'$_'"} @words;
    my $said = `cd '$dir' && openssl $command 2>&1`;
    die "openssl $words[0]: $said\n" if $?;
}

1;
