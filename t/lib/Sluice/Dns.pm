# A DNS server for nginx's `resolve`: names and their addresses come from a file that a test rewrites while it runs.
package Sluice::Dns;

use strict;
use warnings;

use Exporter 'import';
use File::Temp ();
use IO::Socket::INET;
use Sluice::Run;

our @EXPORT = qw(dns);

# dns(NAME => [ADDRESS…], …): an object with ->{port}. Answers say that they hold for a second; a name without addresses
# does not exist; of any other name nothing is said.
sub dns {
    my %names = @_;
    my $self = bless { dir => File::Temp::tempdir(CLEANUP => 1), names => {} }, __PACKAGE__;
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'udp') or die "no UDP port: $!\n";
    $self->{port} = $socket->sockport;
    $self->say(%names);
    $self->{pid} = Sluice::Run::run_code(sub { serve($socket, "$self->{dir}/names") });
    return $self;
}

our @ISA = 'Sluice::Run::Process';

# say(NAME => [ADDRESS…], …): from now on.
sub say {
    my ($self, %names) = @_;
    $self->{names}{$_} = $names{$_} for keys %names;
    Sluice::Run::spew("$self->{dir}/names", join '', map {"$_ @{ $self->{names}{$_} }\n"} sort keys %{ $self->{names} });
}

sub serve {
    my ($socket, $file) = @_;
    while (defined(my $from = $socket->recv(my $query, 512))) {
        my ($id) = unpack 'n', $query;
        my ($name, $at) = ('', 12);
        while (my $length = ord substr $query, $at, 1) {
            $name .= ($name eq '' ? '' : '.') . substr $query, $at + 1, $length;
            $at += 1 + $length;
        }
        my ($type) = unpack 'n', substr $query, $at + 1, 2;
        open my $names, '<', $file or next;
        my ($line) = grep { /^\Q$name\E( |$)/ } map { chomp; $_ } <$names> or next;
        my (undef, @addresses) = split ' ', $line;
        my @records = map { pack 'n3Nna*', 0xc00c, 1, 1, 1, 4, pack 'C4', split /\./ } $type == 1 ? @addresses : ();
        my $flags = 0x8180 | (@addresses ? 0 : 3);
        $socket->send(pack('n6', $id, $flags, 1, scalar @records, 0, 0) . substr($query, 12, $at + 5 - 12) . join('', @records), 0, $from);
    }
}

1;
